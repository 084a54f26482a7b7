"""Locks that expire. They keep work from being done twice at the same time, in most cases but not all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

import structlog
from dapr.proto import api_v1

from annals.dapr.errors import DaprError
from annals.dapr.sidecar import DaprSidecar

_log = structlog.get_logger(__name__)


class LockTaken(Exception):
    """Somebody else holds the lock."""


class LockLost(Exception):
    """The lock's time ran out: the work was cancelled, and somebody else may hold the lock."""


class Locks:
    """One lock component. Dapr's lock API is alpha, and only Redis implements it.

    A lock gives no fencing: it expires whatever its holder does, and requests that the holder has sent
    still arrive. Where two holders at once would be wrong and not only wasteful, let the store refuse the
    second write, as the event store does with its insert-only keys.
    """

    def __init__(self, sidecar: DaprSidecar, store: str) -> None:
        self._sidecar = sidecar
        self._store = store

    @asynccontextmanager
    async def hold(self, name: str, seconds: int) -> AsyncIterator[None]:
        """Hold a lock while the body runs; the body is cancelled when the lock is about to expire.

        A lock cannot be renewed. Raises LockTaken if somebody else holds it, LockLost if the body took too
        long, and DaprError if the request for the lock failed; the lock may then be held until it expires.
        """
        owner = str(uuid4())  # new for each holding, so that a late release frees no other holder's lock
        request = api_v1.TryLockRequest(
            store_name=self._store, resource_id=name, lock_owner=owner, expiry_in_seconds=seconds
        )
        # Counted from before the request, so that the time ends here before the lock expires.
        ends = asyncio.get_running_loop().time() + seconds
        if not (await self._sidecar.call("TryLockAlpha1", request)).success:
            raise LockTaken(f"{name} is locked by somebody else")
        try:
            async with asyncio.timeout_at(ends) as limit:
                yield
        except TimeoutError as error:
            if limit.expired():
                raise LockLost(
                    f"the lock {name} ended after {seconds} s, before the work was done"
                ) from error
            raise
        finally:
            await self._release(name, owner)

    async def _release(self, name: str, owner: str) -> None:
        request = api_v1.UnlockRequest(store_name=self._store, resource_id=name, lock_owner=owner)
        try:
            answer = await self._sidecar.call("UnlockAlpha1", request)
        except DaprError as error:
            # The work is over, and the lock expires by itself.
            _log.warning("a lock could not be released: it will expire", lock=name, error=str(error))
            return
        if answer.status != api_v1.UnlockResponse.SUCCESS:
            status = api_v1.UnlockResponse.Status.Name(answer.status)
            _log.warning("a lock had expired before it was released", lock=name, status=status)
