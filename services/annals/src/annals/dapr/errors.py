"""The closed set of errors with which a call to the sidecar may fail."""

from __future__ import annotations

import grpc

# Only these texts tell a conflict in a transaction from other failures: Dapr 1.18 answers INTERNAL to
# all of them (pkg/api/grpc/grpc.go, ExecuteStateTransaction) and puts the store's own text in the
# details. The first is PostgreSQL's; the second is SQLite's and that of an etag mismatch, MySQL's
# included. If two inserts are concurrent, MySQL refuses the later by its primary key, with the third
# (components-contrib, state/mysql/mysql.go, setValue; the text is go-sql-driver's).
_CONFLICT_TEXTS = ("no item was updated", "possible etag mismatch", "Error 1062 (23000): Duplicate entry")
# MySQL's text for a key or a value that is longer than its column; repeating the call cannot help.
_TOO_LONG_TEXT = "Error 1406 (22001): Data too long"

_UNAVAILABLE = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED}
)


class DaprError(Exception):
    """The sidecar answered with an error; `code` is the gRPC code, `details` is the sidecar's own text."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(f"{code.name}: {details}")
        self.code = code
        self.details = details


class SidecarUnavailable(DaprError):
    """The sidecar is unreachable or late; whether the call took effect is unknown."""


class StateConflict(DaprError):
    """The state store refused a first-write or an etag; nothing of the call was written."""


class StateTooLong(DaprError):
    """A key or a value is longer than the state store can hold; nothing was written, and no retry helps."""


def translate(error: grpc.aio.AioRpcError) -> DaprError:
    """Return the error of this module that corresponds to a gRPC error."""
    code, details = error.code(), error.details() or ""
    if code in _UNAVAILABLE:
        return SidecarUnavailable(code, details)
    if code is grpc.StatusCode.ABORTED or any(text in details for text in _CONFLICT_TEXTS):
        return StateConflict(code, details)
    if _TOO_LONG_TEXT in details:
        return StateTooLong(code, details)
    return DaprError(code, details)
