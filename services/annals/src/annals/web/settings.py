"""The settings that every service has, read from its environment."""

from __future__ import annotations

import socket
from typing import TypeVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from annals.live import Live

L = TypeVar("L", bound=Live)


class ServiceSettings(Live, BaseSettings):
    """Settings of a service, read once at start. Dapr sets the variables without the `ANNALS_` prefix."""

    model_config = SettingsConfigDict(env_prefix="ANNALS_", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    """The address to listen on; the default suffices for a sidecar, which is on the same host."""

    trusted_proxies: str = ""
    """Proxies whose X-Forwarded-For is trusted, such as an ingress: comma-separated addresses or networks."""

    app_port: int = Field(default=8000, validation_alias="APP_PORT")
    """The port to listen on."""

    dapr_http_port: int = Field(default=3500, validation_alias="DAPR_HTTP_PORT")
    """The sidecar's HTTP port."""

    dapr_grpc_port: int = Field(default=50001, validation_alias="DAPR_GRPC_PORT")
    """The sidecar's gRPC port."""

    dapr_api_token: SecretStr | None = Field(default=None, validation_alias="DAPR_API_TOKEN")
    """The token that the sidecar requires of its app."""

    app_api_token: SecretStr | None = Field(default=None, validation_alias="APP_API_TOKEN")
    """The token that the app requires of its sidecar: requests without it are refused."""

    instance: str = Field(default_factory=socket.gethostname)
    """The name of this instance, the same after a restart; in Kubernetes, the pod's name."""

    zipkin_endpoint: str | None = None
    """The Zipkin address that spans are sent to; without it, no spans are recorded."""

    settings_store: str = "settings"
    """The configuration component of the live settings."""

    settings_writer: str = "settings-writer"
    """The binding component that live settings are written through."""

    sidecar_timeout: float = 5.0
    """Timeout of one call to the sidecar, in seconds."""

    @property
    def sidecar_token(self) -> str | None:
        """Return the token to send with each call to the sidecar, None if it requires none."""
        return self.dapr_api_token.get_secret_value() if self.dapr_api_token else None

    def live(self, model: type[L]) -> L:
        """Return the settings that are fields of `model`: those that may change while the service runs."""
        return model.model_validate({name: getattr(self, name) for name in model.model_fields})
