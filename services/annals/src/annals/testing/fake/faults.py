"""Faults on order: calls that fail, and calls that are done but whose reply is lost."""

from __future__ import annotations

from collections import defaultdict, deque

import grpc

from annals.testing.fake.errors import Refused


class Faults:
    """What goes wrong next, by the name of the method in the sidecar's API.

    Service invocation, which goes by HTTP, is called `invoke` here.
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
        """The next calls fail, and nothing is done."""
        self._before[method] += [Refused(code, details)] * times

    def lose_reply(
        self, method: str, code: grpc.StatusCode = grpc.StatusCode.UNAVAILABLE, *, times: int = 1
    ) -> None:
        """The next calls are done, but fail for the caller."""
        self._after[method] += [Refused(code, "the reply was lost")] * times

    def before(self, method: str) -> None:
        """Raises Refused when a call is to fail."""
        if self._before[method]:
            raise self._before[method].popleft()

    def after(self, method: str) -> None:
        """Raises Refused when the reply of a call is to be lost."""
        if self._after[method]:
            raise self._after[method].popleft()
