"""Configuration: values that change while a service runs."""

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

LOOK_SECONDS = 15.0
_RETRY_SECONDS = 2.0
_ANSWER_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class ConfigurationItem:
    """What a key is set to; versions count up where the store has them."""

    value: str
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


Items = Mapping[str, ConfigurationItem]


class Configuration:
    """One configuration component. `look_seconds` is how late a change is seen whose notice was lost."""

    def __init__(self, sidecar: DaprSidecar, store: str, *, look_seconds: float = LOOK_SECONDS) -> None:
        self._sidecar = sidecar
        self._store = store
        self._look_seconds = look_seconds

    async def get(self) -> Items:
        """All that is set. Raises DaprError, also when there is no such component."""
        answer = await self._sidecar.call(
            "GetConfiguration", api_v1.GetConfigurationRequest(store_name=self._store)
        )
        return {
            key: ConfigurationItem(item.value, item.version, dict(item.metadata))
            for key, item in answer.items.items()
        }

    async def follow(self, take: Callable[[Items], None], fail: Callable[[DaprError], None]) -> NoReturn:
        """Hand over all that is set, at once and after each change, for ever; failures too, and go on.

        A notice is a hint to read: what it says is not looked at. Notices get lost: the sidecar answers
        before it listens, and one whose database went away keeps the stream open and says nothing any
        more (components-contrib 1.18, configuration/postgres/postgres.go, doSubscribe). So it is read
        after each reconnection and every `look_seconds` as well, and a change that no notice told of
        ends the subscription in favour of a new one.
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
        """A subscription: `await noticed(seconds)` says whether a notice came in that time."""
        request = api_v1.SubscribeConfigurationRequest(store_name=self._store)
        async with self._sidecar.stream("SubscribeConfiguration", request) as read:
            # Kept from one wait to the next: to cancel a read would end the stream.
            reading = asyncio.ensure_future(read())

            async def noticed(seconds: float) -> bool:
                nonlocal reading
                done, _ = await asyncio.wait([reading], timeout=seconds)
                if done:
                    reading.result()
                    reading = asyncio.ensure_future(read())
                return bool(done)

            try:
                if not await noticed(_ANSWER_SECONDS):  # the first is not of a change: it is subscribed
                    raise SidecarUnavailable(grpc.StatusCode.DEADLINE_EXCEEDED, "no subscription was made")
                yield noticed
            finally:
                reading.cancel()
                await asyncio.gather(reading, return_exceptions=True)
