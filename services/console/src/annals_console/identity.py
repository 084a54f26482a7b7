"""The identity of a caller: a user of a tenant, with a role. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

UserId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]{1,128}$")]
_USER_MAY_BE = "up to 128 letters, digits and ._~@:-"
TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
_TENANT_MAY_BE = "up to 63 lower-case letters, digits and _-, beginning with a letter or digit"


class Role(IntEnum):
    """A caller's role; each role may do what the roles before it may.

    An operator controls what belongs to their tenant, a suite operator also what all tenants share.
    """

    VIEWER = 1
    MEMBER = 2
    OPERATOR = 3
    SUITE_OPERATOR = 4

    @property
    def title(self) -> str:
        """The role's name in messages and in tokens."""
        return self.name.lower().replace("_", "-")


class Identity(BaseModel):
    """An authenticated caller."""

    model_config = ConfigDict(frozen=True)

    user: UserId
    name: str
    tenant: TenantId
    role: Role
    session: str
    until: float
    """When the identity expires, in seconds since the epoch."""

    def public(self) -> dict[str, Any]:
        """Return the fields that the page shows."""
        return {"user": self.user, "name": self.name, "tenant": self.tenant, "role": self.role.title}


class NotRecognised(Exception):
    """A token does not identify a user of a tenant with a role; the text says what is missing or wrong."""


@dataclass(frozen=True, slots=True)
class Claims:
    """The names of the claims that identify a caller; `suite_role` is the suite operators' role in them."""

    user: str
    name: str
    tenant: str
    roles: str
    default_tenant: str | None
    suite_role: str

    def identity(self, claims: Mapping[str, Any], session: str, until: float) -> Identity:
        """Return the identity that a token's claims state, valid until `until`. Raises NotRecognised."""
        user = _find(claims, self.user)
        tenant = _find(claims, self.tenant) or self.default_tenant
        if not isinstance(user, str):
            raise NotRecognised(f"the token has no {self.user}")
        if not isinstance(tenant, str):
            raise NotRecognised(f"the token names no tenant ({self.tenant})")
        role = highest(_find(claims, self.roles), self.suite_role)
        if role is None:
            known = ", ".join(_names(self.suite_role))
            raise NotRecognised(f"the token has none of the roles {known} ({self.roles})")
        name = _find(claims, self.name)
        try:
            return Identity(
                user=user,
                name=name if isinstance(name, str) else user,
                tenant=tenant,
                role=role,
                session=session,
                until=until,
            )
        except ValidationError as error:
            of_user = any("user" in one["loc"] for one in error.errors())
            wrong = (
                f"{user[:140]!r} ({self.user}) is not a user id: expected {_USER_MAY_BE}"
                if of_user
                else f"{tenant[:140]!r} ({self.tenant}) is not a tenant: expected {_TENANT_MAY_BE}"
            )
            raise NotRecognised(wrong) from error


def highest(names: object, suite_role: str = Role.SUITE_OPERATOR.title) -> Role | None:
    """Return the highest of the named roles, if any; other names are roles of other applications."""
    listed: Iterable[object] = (
        names.split() if isinstance(names, str) else names if isinstance(names, list) else ()
    )
    known = _names(suite_role)
    return max((known[name] for name in listed if isinstance(name, str) and name in known), default=None)


def _names(suite_role: str) -> dict[str, Role]:
    return {suite_role if role is Role.SUITE_OPERATOR else role.title: role for role in Role}


def _find(claims: Mapping[str, Any], path: str) -> Any:
    """Return a claim by name, else by dotted path: a name such as `https://x.y/roles` has dots itself."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
