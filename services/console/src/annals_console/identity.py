"""Who asks: a user of a tenant, with what they may do. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError

UserId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~@:-]{1,128}$")]
_USER_MAY_BE = "up to 128 letters, digits and ._~@:-"
TenantId = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
_TENANT_MAY_BE = "up to 63 small letters, digits and _-, of which a letter or digit comes first"


class Role(IntEnum):
    """What somebody may do; each may do what those before it may.

    An operator steers what is their tenant's, a suite operator what is all tenants'.
    """

    VIEWER = 1
    MEMBER = 2
    OPERATOR = 3
    SUITE_OPERATOR = 4

    @property
    def title(self) -> str:
        """Its name for people and for tokens."""
        return self.name.lower().replace("_", "-")


class Identity(BaseModel):
    """Somebody who was recognised."""

    model_config = ConfigDict(frozen=True)

    user: UserId
    name: str
    tenant: TenantId
    role: Role
    session: str
    until: float
    """Since the epoch: when this does not hold any more."""

    def public(self) -> dict[str, Any]:
        """For the page."""
        return {"user": self.user, "name": self.name, "tenant": self.tenant, "role": self.role.title}


class NotRecognised(Exception):
    """A token says too little of who somebody is; the text says what it lacks."""


@dataclass(frozen=True, slots=True)
class Claims:
    """Where a token says who somebody is. `suite_role` is what suite operators are called there."""

    user: str
    name: str
    tenant: str
    roles: str
    default_tenant: str | None
    suite_role: str

    def identity(self, claims: Mapping[str, Any], session: str, until: float) -> Identity:
        """Whom a token's claims are about, and until when. Raises NotRecognised."""
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
                f"the user {user[:140]!r} ({self.user}) is none: it is {_USER_MAY_BE}"
                if of_user
                else f"the tenant {tenant[:140]!r} ({self.tenant}) is none: it is {_TENANT_MAY_BE}"
            )
            raise NotRecognised(wrong) from error


def highest(names: object, suite_role: str = Role.SUITE_OPERATOR.title) -> Role | None:
    """The highest of the roles that are named; other names are other applications' own."""
    listed: Iterable[object] = (
        names.split() if isinstance(names, str) else names if isinstance(names, list) else ()
    )
    known = _names(suite_role)
    return max((known[name] for name in listed if isinstance(name, str) and name in known), default=None)


def _names(suite_role: str) -> dict[str, Role]:
    return {suite_role if role is Role.SUITE_OPERATOR else role.title: role for role in Role}


def _find(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its name, or by the way to it; names such as `https://x.y/roles` hold dots themselves."""
    if path in claims:
        return claims[path]
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found
