"""The settings of the projector."""

from __future__ import annotations

from annals.web.settings import ServiceSettings


class ProjectorSettings(ServiceSettings):
    """See `ServiceSettings`."""

    state_store: str = "eventstore"
    """The state store component that holds the events."""

    keys: str = "shared-keys"
    """The secret store component with the keys that more than one service needs."""

    read_models: str = "readmodels"
    """The binding component of the read models' database."""

    visibility_timeout: float = 5.0
    """Seconds that a query with a position waits for it."""

    maintenance_timeout: float = 600.0
    """Seconds that a comparison or a change of tables may take."""
