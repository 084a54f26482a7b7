"""Asks the projector, whose read model knows it, which sagas have not moved for a while."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import urlencode

from annals.dapr import NotAnswered, ServiceInvocation
from annals.sagas.history import SagaKey
from annals.sagas.watch import Unmoved

_PAGE_SECONDS = 10.0


def unmoved(invocation: ServiceInvocation, seconds: float) -> Unmoved:
    """Return a function that asks for the sagas without an event for `seconds`. It raises NotAnswered."""

    async def ask() -> Sequence[SagaKey]:
        found: list[SagaKey] = []
        cursor: str | None = None
        while True:
            query = {"seconds": seconds} | ({"cursor": cursor} if cursor else {})
            path = f"sagas/unmoved?{urlencode(query)}"
            answer = await invocation.invoke("projector", "GET", path, within=_PAGE_SECONDS)
            if not answer.ok:
                raise NotAnswered(answer.message)
            found += [SagaKey(item["id"], item["tenant"]) for item in answer.body["items"]]
            cursor = answer.body["next"]
            if cursor is None:
                return found

    return ask
