"""A PostgreSQL database, reached through an output binding."""

from __future__ import annotations

from typing import Any, Protocol

import grpc
import orjson

from annals.dapr.errors import DaprError
from annals.dapr.sidecar import DaprSidecar


class DatabaseError(Exception):
    """A statement failed or was not answered; what it wrote is not known."""


class StatementRefused(DatabaseError):
    """The database was reached and gave nothing: the statement failed, or the connection broke."""


class StatementTooLarge(StatementRefused):
    """A statement, or what it gave, is larger than the sidecar takes: less at a time may be handed over."""


class Database(Protocol):
    """Every statement that is fetched gives one row with one text: a JSON value.

    That row is the proof that the statement ran: bindings.postgresql answers a statement that
    failed while it ran with no rows and no error (components-contrib, bindings/postgres, query).
    """

    async def fetch(self, sql: str, *params: str | None) -> Any:
        """Run a statement and return its JSON value. Parameters are texts; SQL casts them."""
        ...

    async def execute(self, sql: str) -> None:
        """Run statements without parameters, together in one transaction."""
        ...


class BindingDatabase:
    """See `Database`. `seconds` is for statements that may take longer than other calls.

    `ping` is a write that changes nothing. Where that fails too, a statement that failed is not refused:
    a database that is read-only now answers what is read.
    """

    def __init__(
        self, sidecar: DaprSidecar, binding: str, seconds: float | None = None, *, ping: str | None = None
    ) -> None:
        self._sidecar = sidecar
        self._binding = binding
        self._seconds = seconds
        self._ping = ping

    async def fetch(self, sql: str, *params: str | None) -> Any:
        """See `Database`."""
        rows = await self._query(sql, params)
        if not rows:
            if self._ping is not None and not await self._query(self._ping, ()):
                raise DatabaseError("the database takes no writes now")
            raise StatementRefused("the statement failed; PostgreSQL's own log says why")
        return orjson.loads(rows[0][0])

    async def execute(self, sql: str) -> None:
        """See `Database`."""
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
            raise DatabaseError(str(error)) from error
