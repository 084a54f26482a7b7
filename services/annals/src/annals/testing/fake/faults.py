"""Faults that a test orders: calls that fail, and calls that take effect but whose reply is lost."""

from __future__ import annotations

from collections import defaultdict, deque

import grpc

from annals.testing.fake.errors import Refused


class Faults:
    """The faults that are still to happen, by the name of the method in the sidecar's gRPC API.

    Service invocation, which uses HTTP, is called `invoke` here.
    """

    def __init__(self) -> None:
        self._before: dict[str, deque[Refused]] = defaultdict(deque)
        self._after: dict[str, deque[Refused]] = defaultdict(deque)

    def fail(
        self,
        method: str,
        code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE,
        details: str = "the sidecar was told to fail",
        *,
        times: int = 1,
    ) -> None:
        """Make the next calls fail without effect."""
        self._before[method] += [Refused(code, details)] * times

    def lose_reply(
        self, method: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, *, times: int = 1
    ) -> None:
        """Make the next calls take effect, but fail for the caller."""
        self._after[method] += [Refused(code, "the reply was lost")] * times

    def before(self, method: str) -> None:
        """Raise Refused if this call must fail."""
        if self._before[method]:
            raise self._before[method].popleft()

    def after(self, method: str) -> None:
        """Raise Refused if the reply to this call must be lost."""
        if self._after[method]:
            raise self._after[method].popleft()
