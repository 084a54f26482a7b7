"""Parameters that the routes of this service share: the tenant, and the names in a path."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Path

from annals.web.request_context import tenant_of

_ID = r"^[A-Za-z0-9._~@:-]{1,128}$"
Tenant = Annotated[str, Depends(tenant_of)]
Name = Annotated[str, Path(pattern=_ID)]
