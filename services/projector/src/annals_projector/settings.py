"""The settings of the projector."""

from __future__ import annotations

from pydantic import Field

from annals.live import Live
from annals.web.settings import ServiceSettings


class ProjectorLive(Live):
    """The settings that an operator may change while the service runs."""

    visibility_timeout: float = Field(default=5.0, ge=0, le=60)
    """Seconds that a query waits for the position it names."""


class ProjectorSettings(ProjectorLive, ServiceSettings):
    """The settings of the projector, read from the environment at the start."""

    state_store: str = "eventstore"
    """The state store component that holds the events."""

    keys: str = "shared-keys"
    """The secret store component with the keys that more than one service needs."""

    read_models: str = "readmodels"
    """The binding component of the read models' database."""

    maintenance_timeout: float = 600.0
    """Seconds that a comparison or a change of tables may take."""
