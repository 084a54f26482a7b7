"""The OpenAPI description of each command: one path per command type."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import BaseModel, Field

from annals.aggregates import Handler
from annals.web.openapi import headers, json_body, problem

CONTEXT = ("x-session-id", "x-correlation-id")
"""The headers of a command's context, in addition to those for tenant and user."""
_REFUSALS = {
    400: "Malformed: which fields, and what was expected.",
    403: "Only one user may send this command, and the caller is another.",
    404: "No such aggregate.",
    409: "Conflict: the aggregate is at another version than expected.",
    413: "Too large: an event, or the events and the state after them, would exceed a limit.",
    422: "A rule refuses the command, and `rule` names it; or its key was used for another command.",
    503: "Not possible now; Retry-After says when to try again.",
}


class Written(BaseModel):
    """What a command wrote: the aggregate's id, stream and version, and the position to give to queries."""

    id: str
    stream: str
    version: int = Field(ge=1)
    position: str


def described(handler: Handler[Any, Any]) -> dict[str, Any]:
    """Return FastAPI's arguments for the route of a command."""
    summary, _, description = inspect.cleandoc(handler.command.__doc__ or "").partition("\n\n")
    answers = {
        status: problem(text)
        for status, text in _REFUSALS.items()
        if status != 403 or handler.sender is not None
    }
    if handler.creates:
        answers[200] = {"model": Written, "description": "Done, and the aggregate is not new."}
    return {
        "summary": summary,
        "description": description,
        "tags": [handler.aggregate.aggregate_type],
        "operation_id": handler.command.command_type,
        "status_code": 201 if handler.creates else 200,
        "response_description": "Done, and the aggregate is new." if handler.creates else "Done.",
        "response_model": Written,
        "responses": answers,
        "openapi_extra": {"parameters": headers(*CONTEXT, "Idempotency-Key", "If-Match")}
        | json_body(handler.command),
    }
