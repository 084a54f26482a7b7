"""The settings that every service has, from its environment."""

from __future__ import annotations

import socket
from typing import TypeVar

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from annals.live import Live

L = TypeVar("L", bound=Live)


class ServiceSettings(Live, BaseSettings):
    """Read once at the start. The names without a prefix are those that Dapr itself sets."""

    model_config = SettingsConfigDict(env_prefix="ANNALS_", frozen=True, populate_by_name=True)

    host: str = "127.0.0.1"
    """The address to listen on; a sidecar is on the same host."""

    trusted_proxies: str = ""
    """Addresses or networks, with commas, whose X-Forwarded-For is believed: those of an ingress. None is."""

    app_port: int = Field(default=8000, validation_alias="APP_PORT")
    """The port to listen on."""

    dapr_http_port: int = Field(default=3500, validation_alias="DAPR_HTTP_PORT")
    """The sidecar's HTTP port."""

    dapr_grpc_port: int = Field(default=50001, validation_alias="DAPR_GRPC_PORT")
    """The sidecar's gRPC port."""

    dapr_api_token: SecretStr | None = Field(default=None, validation_alias="DAPR_API_TOKEN")
    """What the sidecar asks of its app."""

    app_api_token: SecretStr | None = Field(default=None, validation_alias="APP_API_TOKEN")
    """What the app asks of its sidecar: requests without it are refused."""

    instance: str = Field(default_factory=socket.gethostname)
    """Names this instance, also after a restart: a pod's name."""

    zipkin_endpoint: str | None = None
    """Where spans go; without it none are recorded."""

    settings_store: str = "settings"
    """The configuration component of the live settings."""

    settings_writer: str = "settings-writer"
    """The binding component that live settings are written through."""

    sidecar_timeout: float = 5.0
    """Seconds that one call to the sidecar may take."""

    @property
    def sidecar_token(self) -> str | None:
        """What the sidecar is told at each call, where it asks for a token."""
        return self.dapr_api_token.get_secret_value() if self.dapr_api_token else None

    def live(self, model: type[L]) -> L:
        """The part of these settings that may change while the service runs."""
        return model.model_validate({name: getattr(self, name) for name in model.model_fields})
