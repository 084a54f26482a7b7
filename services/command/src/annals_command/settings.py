"""The settings of the command service."""

from __future__ import annotations

from pydantic import Field

from annals.live import Live
from annals.store import MAX_EVENT_BYTES
from annals.web.settings import ServiceSettings


class CommandLive(Live):
    """What an operator may change while the service runs."""

    read_only: bool = False
    """Refuse commands, and what is asked of sagas, with 503 and Retry-After, as while a database moves."""

    max_backlog: int = Field(default=100_000, ge=0)
    """Commits that may wait for the broker before commands are answered with 503."""


class CommandSettings(CommandLive, ServiceSettings):
    """See `ServiceSettings`."""

    state_store: str = "eventstore"
    """The state store component that holds the events."""

    topic: str = "domain-events"
    """The topic of the events, and the pub/sub component it is on."""

    signing_keys: str = "signing-keys"
    """The secret store component with the key that signs the audit trail's checkpoints."""

    keys: str = "shared-keys"
    """The secret store component with the keys that more than one service needs."""

    checkpoint_seconds: float = Field(default=60.0, gt=0, le=240)
    """Seconds between the audit trail's signed checkpoints; one of 300 is late for the projector."""

    # A TTL of 0 is none, and Dapr refuses every transaction with one beyond 2^31-1 seconds.
    idempotency_days: int = Field(default=7, ge=1, le=3_650)
    """For how long the outcome of a command with a key is kept."""

    append_deadline: float = Field(default=10.0, gt=0)
    """Seconds that a command waits at most, for its turn and for the store together."""

    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, gt=0)
    """Bytes that one event may take on the broker, whose largest message is larger: more is refused."""
