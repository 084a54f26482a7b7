"""Who makes a request on a saga. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Asker:
    """The user who makes a request on a saga, and the session, the address and the trace of the request.

    The events that the request appends carry them. What the saga's workflow does later has no session and no
    address: only the user for whom the saga runs.
    """

    user: str | None = None
    session: str | None = None
    client: str | None = None
    traceparent: str | None = None

    def to_json(self) -> dict[str, str]:
        """Return the asker as JSON, for a start that another process may record."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Asker:
        """Return the asker in JSON."""
        return cls(given.get("user"), given.get("session"), given.get("client"), given.get("traceparent"))


NOBODY = Asker()
