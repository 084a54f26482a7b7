"""How the sidecar refuses a call: a gRPC code, a text, and a reason for programs."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2
from google.rpc import error_details_pb2, status_pb2

Context = grpc.aio.ServicerContext[Any, Any]
EMPTY: object = empty_pb2.Empty()  # type: ignore[attr-defined]


class Refused(Exception):
    """A call that the sidecar answers with an error."""

    def __init__(self, code: grpc.StatusCode, details: str, reason: str = "") -> None:
        super().__init__(details)
        self.code = code
        self.details = details
        self.reason = reason

    def trailing(self) -> tuple[tuple[str, bytes], ...]:
        """Return the trailing metadata that carries the reason; empty without a reason."""
        if not self.reason:
            return ()
        packed = any_pb2.Any()  # type: ignore[attr-defined]
        packed.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="dapr.io"))
        status = status_pb2.Status(code=self.code.value[0], message=self.details, details=[packed])
        return (("grpc-status-details-bin", bytes(status.SerializeToString())),)  # type: ignore[no-untyped-call]
