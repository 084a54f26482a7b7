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
    """How the console knows who asks."""

    OIDC = "oidc"
    DEVELOPMENT = "development"


class ConsoleSettings(ServiceSettings):
    """See `ServiceSettings`."""

    app_port: int = Field(default=8080, validation_alias="APP_PORT")
    """The port to listen on."""

    page: Path = Path("services/console/web/dist")
    """The built page."""

    metrics_port: int | None = None
    """A port of its own for the metrics; without it none are served: the other one is for everybody."""

    zipkin_url: str | None = None
    """Where people look at traces; without it the page shows their ids only."""

    auth: AuthMode | None = None
    """`oidc`, or `development`: everybody may be anybody. There is no default."""

    oidc_issuer: str | None = None
    """The issuer, as its tokens name it; its configuration is looked up below it."""

    oidc_client_id: str | None = None
    """What the console is at the issuer."""

    oidc_client_secret: SecretStr | None = None
    """Its secret; a public client has none, and PKCE alone."""

    oidc_audience: str | None = None
    """Whom a bearer token must be meant for; the client id when it is not set."""

    oidc_scope: str = "openid profile"
    """What is asked of the issuer."""

    oidc_user_claim: str = "sub"
    oidc_name_claim: str = "name"
    oidc_tenant_claim: str = "tenant"
    oidc_roles_claim: str = "roles"
    """The claims that say who somebody is; a dot leads into one, as in `realm_access.roles`."""

    oidc_suite_role: str = "suite-operator"
    """What the role that steers what is all tenants' is called among somebody's roles."""

    oidc_tenant: str | None = None
    """The tenant of those whose token names none; without it they are refused."""

    session_key: SecretStr | None = None
    """What signs the session's cookie: 32 random characters or more, the same for all replicas."""

    session_hours: float = Field(default=8, gt=0)
    """How long somebody stays signed in."""

    public_url: str | None = None
    """Where browsers find the console, such as https://annals.example; the issuer sends them back there."""

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
        """Whether browsers come by HTTPS."""
        return (self.public_url or "").startswith("https://")
