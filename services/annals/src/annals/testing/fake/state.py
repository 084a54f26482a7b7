"""A state store in memory that keeps the rules that real state stores keep, and breaks those that they break.

The rules are those of components-contrib 1.18, state/postgresql/v2/postgresql.go,
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
    """The component whose rules a store follows.

    Redis ignores first-write in a transaction, and does not roll back what a failed transaction wrote. MySQL
    reads an expired key as absent, but refuses to insert it until it has been cleaned up.
    """

    POSTGRESQL = "state.postgresql"
    SQLITE = "state.sqlite"
    MYSQL = "state.mysql"
    REDIS = "state.redis"


class StateRefused(Exception):
    """The store refuses a write; `mismatch` says whether it reports this as an etag mismatch."""

    def __init__(self, text: str, *, mismatch: bool) -> None:
        super().__init__(text)
        self.mismatch = mismatch


@dataclass(frozen=True, slots=True)
class Stored:
    """The value of a key. Redis refuses a single first-write of a key only if `first_written` is set."""

    data: bytes
    etag: str
    expires: datetime | None = None
    first_written: bool = False


@dataclass(frozen=True, slots=True)
class Operation:
    """One write; without `data`, it deletes the key."""

    key: str
    data: bytes | None = None
    etag: str | None = None
    first_write: bool = False
    ttl: timedelta | None = None


class FakeState:
    """A state store. Sidecars that are given the same store share it, as they would share a database.

    `prefix_app_ids` keeps the keys of different apps apart, as Dapr does unless `keyPrefix` says otherwise.
    """

    def __init__(
        self, flavour: Flavour = Flavour.POSTGRESQL, *, prefix_app_ids: bool = False, seed: int = 0
    ) -> None:
        self.flavour = flavour
        self.prefix_app_ids = prefix_app_ids
        self._values: dict[str, Stored] = {}
        self._random = random.Random(seed)  # noqa: S311  # a test chooses it

    def get(self, key: str, now: datetime) -> Stored | None:
        """Return the value of a key; None if the key is absent or has expired."""
        stored = self._values.get(key)
        return None if stored is None or (stored.expires is not None and stored.expires < now) else stored

    def get_bulk(self, keys: Iterable[str], now: datetime) -> Iterator[tuple[str, Stored | None]]:
        """Yield each key once with its value, in random order."""
        asked = list(dict.fromkeys(keys))
        self._random.shuffle(asked)
        for key in asked:
            yield key, self.get(key, now)

    def keys(self, now: datetime) -> list[str]:
        """Return the keys that have a value. This is for tests: no API of Dapr lists keys."""
        return [key for key in self._values if self.get(key, now) is not None]

    def clean_up(self, now: datetime) -> None:
        """Delete the expired keys, as real stores do at each `cleanupInterval`."""
        self._values = {key: stored for key, stored in self._values.items() if self.get(key, now) is not None}

    def write(self, operation: Operation, now: datetime) -> None:
        """Apply a single write. Raises StateRefused."""
        self._keep({operation.key: self._written(self.get(operation.key, now), operation, now, alone=True)})

    def transact(self, operations: Iterable[Operation], now: datetime) -> None:
        """Apply all writes in order, or none. Raises StateRefused.

        Redis keeps the writes before a refused one.
        """
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
