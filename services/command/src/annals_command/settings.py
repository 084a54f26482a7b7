"""The settings of the command service."""

from __future__ import annotations

from pydantic import Field

from annals.live import Live
from annals.store import MAX_EVENT_BYTES
from annals.web.settings import ServiceSettings


class CommandLive(Live):
    """The settings that an operator may change while the service runs."""

    read_only: bool = False
    """Refuse commands, and requests that start, answer or control sagas, with 503 and Retry-After.

    Sagas that run go on writing: to move a database, stop the services too.
    """

    max_backlog: int = Field(default=100_000, ge=0)
    """Commits of a replica that may wait for the broker before it answers commands with 503."""


class CommandSettings(CommandLive, ServiceSettings):
    """The command service's settings, in addition to those of `ServiceSettings`."""

    state_store: str = "eventstore"
    """The state store component that holds the events."""

    topic: str = "domain-events"
    """The topic of the events, and the pub/sub component it is on."""

    signing_keys: str = "signing-keys"
    """The secret store component with the key that signs the audit trail's checkpoints."""

    keys: str = "shared-keys"
    """The secret store component with the keys that more than one service needs."""

    checkpoint_seconds: float = Field(default=60.0, gt=0, le=240)
    """Seconds between signed checkpoints of the audit trail; a commit unsigned for 300 s counts as late."""

    # A TTL of 0 means none, and Dapr refuses every transaction with a TTL above 2^31-1 seconds.
    idempotency_days: int = Field(default=7, ge=1, le=3_650)
    """Days for which the outcome of a command with an idempotency key is kept."""

    append_deadline: float = Field(default=10.0, gt=0)
    """The most seconds that a command waits, for its turn and for the store together."""

    max_event_bytes: int = Field(default=MAX_EVENT_BYTES, gt=0)
    """The most bytes that one event may take on the broker, below the broker's own limit; more is refused."""
