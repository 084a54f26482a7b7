"""The settings of the saga orchestrator."""

from __future__ import annotations

from annals.web.settings import ServiceSettings


class SagaSettings(ServiceSettings):
    """See `ServiceSettings`."""

    state_store: str = "eventstore"
    """The state store component that holds the sagas' streams."""

    topic: str = "saga-events"
    """The topic of the sagas' events, and the pub/sub component it is on."""

    max_backlog: int = 100_000
    """Commits that may wait for the broker before requests are answered with 503."""
