"""The settings of the console."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator

from annals.web.settings import ServiceSettings

_SHORTEST_KEY = 32
_UNSET = (
    "ANNALS_AUTH is not set: set it to oidc, with ANNALS_OIDC_ISSUER, ANNALS_OIDC_CLIENT_ID,"
    " ANNALS_PUBLIC_URL and ANNALS_SESSION_KEY; or, on a machine of your own where everybody may"
    " be anybody, to development"
)
_OIDC = ("oidc_issuer", "oidc_client_id", "session_key", "public_url")


class AuthMode(StrEnum):
    """How the console authenticates callers."""

    OIDC = "oidc"
    DEVELOPMENT = "development"


class ConsoleSettings(ServiceSettings):
    """The console's settings, in addition to those of `ServiceSettings`."""

    app_port: int = Field(default=8080, validation_alias="APP_PORT")
    """The port to listen on."""

    page: Path = Path("services/console/web/dist")
    """The directory of the built page."""

    metrics_port: int | None = None
    """A separate port for metrics; without it, none are served, because `app_port` is open to everybody."""

    zipkin_url: str | None = None
    """The address at which people look at traces; without it, the page shows only their ids."""

    auth: AuthMode | None = None
    """`oidc`, or `development`, in which every caller may act as any user. There is no default."""

    oidc_issuer: str | None = None
    """The issuer's URL, exactly as its tokens state it; its configuration is fetched from below that URL."""

    oidc_client_id: str | None = None
    """The console's client id at the issuer."""

    oidc_client_secret: SecretStr | None = None
    """The console's client secret; a public client has none, only PKCE."""

    oidc_audience: str | None = None
    """The audience that a bearer token must name; by default the client id."""

    oidc_scope: str = "openid profile"
    """The scopes that are requested of the issuer."""

    oidc_user_claim: str = "sub"
    oidc_name_claim: str = "name"
    oidc_tenant_claim: str = "tenant"
    oidc_roles_claim: str = "roles"
    """The claims that identify a caller; a dot leads into a nested claim, as in `realm_access.roles`."""

    oidc_suite_role: str = "suite-operator"
    """The name in tokens of the role that controls what all tenants share."""

    oidc_tenant: str | None = None
    """The tenant of callers whose token names none; without it, they are refused."""

    session_key: SecretStr | None = None
    """The key that signs session cookies: 32 random characters or more, the same for all replicas."""

    session_hours: float = Field(default=8, gt=0)
    """Hours for which a user stays signed in."""

    public_url: str | None = None
    """The console's URL for browsers, such as https://annals.example; the issuer sends them back to it."""

    @model_validator(mode="after")
    def _says_how_to_authenticate(self) -> Self:
        if self.auth is None:
            raise ValueError(_UNSET)
        if self.auth is AuthMode.OIDC:
            missing = [f"ANNALS_{name.upper()}" for name in _OIDC if not getattr(self, name)]
            if missing:
                raise ValueError(f"ANNALS_AUTH=oidc needs {', '.join(missing)}")
            key = self.session_key.get_secret_value() if self.session_key else ""
            if len(key) < _SHORTEST_KEY:
                raise ValueError(f"ANNALS_SESSION_KEY must have {_SHORTEST_KEY} characters or more")
        return self

    @property
    def secure(self) -> bool:
        """Whether browsers reach the console by HTTPS."""
        return (self.public_url or "").startswith("https://")
