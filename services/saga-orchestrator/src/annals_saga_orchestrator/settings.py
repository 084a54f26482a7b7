"""The settings of the saga orchestrator."""

from __future__ import annotations

from pydantic import Field

from annals.live import Live
from annals.store import MAX_EVENT_BYTES
from annals.web.settings import ServiceSettings


class SagaLive(Live):
    """The settings that an operator may change while the service runs."""

    max_backlog: int = Field(default=100_000, ge=0)
    """Commits of a replica that may wait for the broker before it answers requests with 503."""


class SagaSettings(SagaLive, ServiceSettings):
    """The settings of the saga orchestrator, beside those of every service; see `ServiceSettings`."""

    read_only: bool = False
    """The value of `command.read_only` for this service while nobody has set that live setting."""

    state_store: str = "eventstore"
    """The state store component that holds the sagas' streams."""

    stalled_after: float = Field(default=60.0, gt=0)
    """Seconds without an event after which a saga is watched.

    If it has none for as long again, beyond what its declaration allows, it is restarted. This second wait
    doubles with each restart.
    """

    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, gt=0)
    """Bytes that the event of a saga's start may take: less than the broker's largest message."""

    topic: str = "saga-events"
    """The topic of the sagas' events, and the pub/sub component it is on."""
