"""Dapr configuration: values that may change while a service runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from dapr.proto import api_v1

from annals.dapr.errors import DaprError, SidecarUnavailable
from annals.dapr.sidecar import DaprSidecar

LOOK_SECONDS = 15.0  # between two reads, if no notice comes
_RETRY_SECONDS = 2.0  # after an error
_ANSWER_SECONDS = 5.0  # until the sidecar confirms a subscription


@dataclass(frozen=True, slots=True)
class ConfigurationItem:
    """The value of a key. `version` increases with each change, if the store has versions."""

    value: str
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


Items = Mapping[str, ConfigurationItem]


class Configuration:
    """One configuration component. A change whose notice was lost is seen after `look_seconds` at most."""

    def __init__(self, sidecar: DaprSidecar, store: str, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._sidecar = sidecar
        self._store = store
        self._look_seconds = look_seconds

    async def get(self) -> Items:
        """Return all items. Raises DaprError, also if the component does not exist."""
        answer = await self._sidecar.call(
            "GetConfiguration", api_v1.GetConfigurationRequest(store_name=self._store)
        )
        return {
            key: ConfigurationItem(item.value, item.version, dict(item.metadata))
            for key, item in answer.items.items()
        }

    async def follow(self, take: Callable[[Items], None], fail: Callable[[DaprError], None]) -> NoReturn:
        """Call `take` with all items, now and after each change, and `fail` with each error, until cancelled.

        A notice only prompts a read; its content is ignored. Notices get lost: the sidecar confirms a
        subscription before it listens, and after it has lost its database it keeps the stream open but sends
        nothing more (components-contrib 1.18, configuration/postgres/postgres.go, doSubscribe). The items are
        therefore also read after each reconnection and every `look_seconds`. A change without a notice shows
        that the subscription is deaf, and it is replaced. After an error, `take` gets all items again.
        """
        known: Items | None = None
        while True:
            try:
                async with self._notices() as noticed:
                    deaf, told = False, True
                    while not deaf:
                        items = await self.get()
                        deaf = items != known and not told
                        if items != known:
                            take(items)
                            known = items
                        told = await noticed(self._look_seconds)
            except DaprError as error:
                known = None
                fail(error)
                await asyncio.sleep(_RETRY_SECONDS)

    @asynccontextmanager
    async def _notices(self) -> AsyncIterator[Callable[[float], Awaitable[bool]]]:
        """Subscribe. `await noticed(seconds)` returns whether a notice came within that time."""
        request = api_v1.SubscribeConfigurationRequest(store_name=self._store)
        async with self._sidecar.stream("SubscribeConfiguration", request) as read:
            # The read is kept from one wait to the next, because cancelling it would end the stream.
            reading = asyncio.ensure_future(read())

            async def noticed(seconds: float) -> bool:
                nonlocal reading
                done, _ = await asyncio.wait([reading], timeout=seconds)
                if done:
                    reading.result()
                    reading = asyncio.ensure_future(read())
                return bool(done)

            try:
                if not await noticed(_ANSWER_SECONDS):  # the first only confirms the subscription
                    raise SidecarUnavailable(grpc.StatusCode.DEADLINE_EXCEEDED, "no subscription was made")
                yield noticed
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
