"""A PostgreSQL database, reached through an output binding."""

from __future__ import annotations

from typing import Any, Protocol

import grpc
import orjson

from annals.dapr.errors import DaprError
from annals.dapr.sidecar import DaprSidecar


class DatabaseError(Exception):
    """A statement failed or got no answer; whether it wrote anything is unknown."""


class StatementRefused(DatabaseError):
    """The database was reached but returned no row: the statement failed, or the connection broke."""


class StatementTooLarge(StatementRefused):
    """A statement or its result is larger than the sidecar accepts; smaller parts may pass."""


class Database(Protocol):
    """Runs SQL. A statement that is fetched must return one row with one text: a JSON value.

    The row proves that the statement ran. If a statement fails while it runs, bindings.postgresql answers
    with no rows and no error (components-contrib, bindings/postgres, query).
    """

    async def fetch(self, sql: str, *params: str | None) -> Any:
        """Run a statement and return its JSON value. Parameters are texts, which the SQL casts."""
        ...

    async def execute(self, sql: str) -> None:
        """Run statements without parameters, together in one transaction."""
        ...


class BindingDatabase:
    """A `Database` behind the output binding `binding`.

    `seconds` is the deadline for statements that may take longer than other calls. `ping` is a write that
    changes nothing. It runs if a statement returns no row: if it fails too, the database takes no writes now,
    for example because it is read-only. `fetch` then raises DatabaseError instead of StatementRefused.
    """

    def __init__(
        self, sidecar: DaprSidecar, binding: str, seconds: float | None = None, *, ping: str | None = None
    ) -> None:
        self._sidecar = sidecar
        self._binding = binding
        self._seconds = seconds
        self._ping = ping

    async def fetch(self, sql: str, *params: str | None) -> Any:
        """Run a statement and return its JSON value; see `Database`. Raises DatabaseError."""
        rows = await self._query(sql, params)
        if not rows:
            if self._ping is not None and not await self._query(self._ping, ()):
                raise DatabaseError("the database takes no writes now")
            raise StatementRefused("the statement failed; PostgreSQL's own log says why")
        return orjson.loads(rows[0][0])

    async def execute(self, sql: str) -> None:
        """Run statements in one transaction; see `Database`. Raises DatabaseError."""
        await self._invoke("exec", {"sql": sql})

    async def _query(self, sql: str, params: tuple[str | None, ...]) -> Any:
        metadata = {"sql": sql, "params": orjson.dumps(params).decode()}
        return orjson.loads(await self._invoke("query", metadata))

    async def _invoke(self, operation: str, metadata: dict[str, str]) -> bytes:
        try:
            return await self._sidecar.invoke_binding(
                self._binding, operation, metadata, seconds=self._seconds
            )
        except DaprError as error:
            if error.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
                raise StatementTooLarge(str(error)) from error
            raise DatabaseError(f"the database {self._binding}: {error}") from error
