"""The closed set of errors a call to the sidecar may end with."""

from __future__ import annotations

import grpc

# The one way to know a conflict in a transaction: Dapr 1.18 answers INTERNAL to whatever went
# wrong in it (pkg/api/grpc/grpc.go, ExecuteStateTransaction) and puts the store's own words in
# the details: the first are PostgreSQL's, the second SQLite's and those of an etag mismatch, which
# MySQL has too. Of two inserts at the same time MySQL refuses the later by its primary key instead
# (components-contrib, state/mysql/mysql.go, setValue; the text is go-sql-driver's).
_CONFLICT_TEXTS = ("no item was updated", "possible etag mismatch", "Error 1062 (23000): Duplicate entry")
# What MySQL says of a key or a value that is longer than its column: no repetition changes that.
_TOO_LONG_TEXT = "Error 1406 (22001): Data too long"

_UNAVAILABLE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class DaprError(Exception):
    """The sidecar answered with an error; `code` is gRPC's, `details` the sidecar's own words."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class SidecarUnavailable(DaprError):
    """No answer: the sidecar is away or late. Whether the call took effect is not known."""


class StateConflict(DaprError):
    """A first-write or an etag was refused by the state store; nothing of the call was written."""


class StateTooLong(DaprError):
    """A key or a value is longer than the state store can hold; nothing of the call was or is written."""


def translate(error: grpc.aio.AioRpcError) -> DaprError:
    """The error of this module that a gRPC error stands for."""
    code, details = error.code(), error.details() or ""
    if code in _UNAVAILABLE:
        return SidecarUnavailable(code, details)
    if code is grpc.StatusCode.ABORTED or any(text in details for text in _CONFLICT_TEXTS):
        return StateConflict(code, details)
    if _TOO_LONG_TEXT in details:
        return StateTooLong(code, details)
    return DaprError(code, details)
