"""Records operators' requests in the audit trail. A request that cannot be recorded is not carried out."""

from __future__ import annotations

from typing import Annotated

from fastapi import Body, Request
from pydantic import BaseModel, ConfigDict

from annals.dapr import NotAnswered, ServiceInvocation
from annals.web.problems import Problem, unavailable
from annals.web.request_body import Reason
from annals.web.request_context import client_of, id_of, tenant_of, traceparent_of

_ANSWER_SECONDS = 10.0  # for the command service to record a request
_TYPE = "operation.request"


class GivenReason(BaseModel):
    """An operator's reason, kept in the audit trail."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason | None = None


OptionalReason = Annotated[GivenReason | None, Body()]


class Operations:
    """Records an operator's request as an event in a stream of its own, through the command service.

    A dead letter or a read model is not an aggregate, so changing one leaves no event otherwise.
    """

    def __init__(self, invocation: ServiceInvocation, service: str) -> None:
        self._invocation = invocation
        self._service = service

    async def requested(self, request: Request, action: str, target: str, reason: str | None) -> None:
        """Record who requests what, why, from where, and in which session and trace.

        Call this first: it raises a Problem if the request cannot be recorded, and then nothing is done.
        """
        given = {
            "x-tenant-id": tenant_of(request),
            "x-user-id": id_of(request, "x-user-id"),
            "x-session-id": id_of(request, "x-session-id"),
            "x-forwarded-for": client_of(request),
            "traceparent": traceparent_of(request),
        }
        headers = {name: value for name, value in given.items() if value}
        body = {"service": self._service, "action": action, "target": target, "reason": reason}
        try:
            answer = await self._invocation.invoke(
                "command", "POST", f"commands/{_TYPE}", json=body, headers=headers, within=_ANSWER_SECONDS
            )
        except NotAnswered as error:
            raise _unrecorded(str(error)) from error
        if not answer.ok:
            raise _unrecorded(answer.message)


def _unrecorded(why: str) -> Problem:
    return unavailable(f"it was not done, because the audit trail cannot record it now: {why}")
