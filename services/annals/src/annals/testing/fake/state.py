"""A state store in memory that keeps and breaks the rules which the real ones keep and break.

Where a rule comes from: components-contrib 1.18, state/postgresql/v2/postgresql.go,
state/sqlite/sqlite_dbaccess.go, state/mysql/mysql.go and state/redis/redis.go.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

_MISMATCH = "possible etag mismatch. error from state store"


class Flavour(StrEnum):
    """Whose rules a store keeps. Redis ignores first-write in a transaction, and keeps half of it.

    MySQL reads what has expired as absent, and refuses to insert it all the same, until it was cleaned up.
    """

    POSTGRESQL = "state.postgresql"
    SQLITE = "state.sqlite"
    MYSQL = "state.mysql"
    REDIS = "state.redis"


class StateRefused(Exception):
    """A write that the store refuses; `mismatch` when it calls that an etag's mismatch."""

    def __init__(self, text: str, *, mismatch: bool) -> None:
        super().__init__(text)
        self.mismatch = mismatch


@dataclass(frozen=True, slots=True)
class Stored:
    """What a key holds."""

    data: bytes
    etag: str
    expires: datetime | None = None
    first_written: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One write. No `data` deletes."""

    key: str
    data: bytes | None = None
    etag: str | None = None
    first_write: bool = False
    ttl: timedelta | None = None


class FakeState:
    """A state store. Sidecars that are given the same one share it, as they share a database.

    `prefix_app_ids` keeps the keys of apps apart, as Dapr does unless `keyPrefix` says otherwise.
    """

    def __init__(
        self, flavour: Flavour = Flavour.POSTGRESQL, *, prefix_app_ids: bool = False, seed: int = 0
    ) -> None:
        self.flavour = flavour
        self.prefix_app_ids = prefix_app_ids
        self._values: dict[str, Stored] = {}
        self._random = random.Random(seed)  # noqa: S311  # a test chooses it

    def get(self, key: str, now: datetime) -> Stored | None:
        """What a key holds."""
        stored = self._values.get(key)
        return None if stored is None or (stored.expires is not None and stored.expires < now) else stored

    def get_bulk(self, keys: Iterable[str], now: datetime) -> Iterator[tuple[str, Stored | None]]:
        """What keys hold, each once, in any order."""
        asked = list(dict.fromkeys(keys))
        self._random.shuffle(asked)
        for key in asked:
            yield key, self.get(key, now)

    def keys(self, now: datetime) -> list[str]:
        """The keys that hold something. No API of Dapr lists them: it is for tests."""
        return [key for key in self._values if self.get(key, now) is not None]

    def clean_up(self, now: datetime) -> None:
        """Delete what has expired, as stores do each `cleanupInterval`."""
        self._values = {key: stored for key, stored in self._values.items() if self.get(key, now) is not None}

    def write(self, operation: Operation, now: datetime) -> None:
        """A write by itself. Raises StateRefused."""
        self._keep({operation.key: self._written(self.get(operation.key, now), operation, now, alone=True)})

    def transact(self, operations: Iterable[Operation], now: datetime) -> None:
        """Writes in their order, all or none (of Redis, those before it). Raises StateRefused."""
        changed: dict[str, Stored | None] = {}
        for operation in operations:
            key = operation.key
            there = changed[key] if key in changed else self.get(key, now)
            changed[key] = self._written(there, operation, now, alone=False)
            if self.flavour is Flavour.REDIS:
                self._keep(changed)
        self._keep(changed)

    def _keep(self, changed: Mapping[str, Stored | None]) -> None:
        for key, stored in changed.items():
            if stored is None:
                self._values.pop(key, None)
            else:
                self._values[key] = stored

    def _written(
        self, there: Stored | None, operation: Operation, now: datetime, *, alone: bool
    ) -> Stored | None:
        self._check(there, operation, alone=alone)
        if operation.data is None:
            return None
        expires = None if operation.ttl is None else now + operation.ttl
        return Stored(
            operation.data, self._next_etag(there), expires, first_written=alone and operation.first_write
        )

    def _check(self, there: Stored | None, operation: Operation, *, alone: bool) -> None:
        redis = self.flavour is Flavour.REDIS
        if operation.etag is not None:
            if (there is None and not redis) or (there is not None and there.etag != operation.etag):
                raise StateRefused(self._mismatch(operation.etag), mismatch=True)
        elif (
            self.flavour is Flavour.MYSQL
            and operation.first_write
            and there is None
            and operation.data is not None
            and operation.key in self._values
        ):
            text = f"Error 1062 (23000): Duplicate entry '{operation.key}' for key 'PRIMARY'"
            raise StateRefused(text, mismatch=False)
        elif (
            operation.first_write
            and there is not None
            and operation.data is not None
            and (not redis or (alone and there.first_written))
        ):
            if self.flavour is Flavour.POSTGRESQL:
                raise StateRefused("no item was updated", mismatch=False)
            if redis:
                key = operation.key
                text = f"failed to set key {key}: ERR user_script:1: failed to set key {key}"
                raise StateRefused(text, mismatch=False)
            raise StateRefused(_MISMATCH, mismatch=True)

    def _mismatch(self, etag: str) -> str:
        if self.flavour is Flavour.POSTGRESQL:
            try:
                uuid.UUID(etag)
            except ValueError:
                length = len(etag)
                why = (
                    "invalid UUID format" if length in (32, 36, 38, 45) else f"invalid UUID length: {length}"
                )
                return f"{_MISMATCH}: {why}"
        return _MISMATCH

    def _next_etag(self, there: Stored | None) -> str:
        if self.flavour is Flavour.REDIS:
            return str(int(there.etag) + 1) if there is not None else "1"
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))
