"""The context of a request: tenant, client, trace and ids, from its headers."""

from __future__ import annotations

import re

from fastapi import Request

from annals.events import is_header_id, is_tenant
from annals.events.identity import MAX_HEADER_ID, TENANT
from annals.web.problems import malformed

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?=-|\Z)")


def tenant_of(request: Request) -> str:
    """Return the request's tenant, by default `default`. Raises a Problem for a malformed one."""
    tenant = request.headers.get("x-tenant-id") or "default"
    if not is_tenant(tenant):
        raise malformed("x-tenant-id", f"like {TENANT.pattern}")
    return tenant


def client_of(request: Request) -> str | None:
    """Return where a request comes from: the address that the edge saw, otherwise the calling app's id.

    Dapr names the calling app and appends the address of its host to `X-Forwarded-For` (1.18,
    pkg/messaging/direct_messaging.go). For a call through the app's own sidecar it does neither.
    """
    caller = request.headers.get("dapr-caller-app-id")
    given = ",".join(request.headers.getlist("x-forwarded-for"))
    addresses = [address for one in given.split(",") if (address := one.strip())]
    seen = addresses[:-1] if caller else addresses
    return (seen[0] if seen else caller or "")[:MAX_HEADER_ID] or None


def traceparent_of(request: Request) -> str | None:
    """Return the request's `traceparent`; None for an invalid one, which W3C says to ignore."""
    found = _TRACEPARENT.match(request.headers.get("traceparent", ""))
    return found[0] if found else None


def id_of(request: Request, header: str) -> str | None:
    """Return the id in a header, if any. Raises a Problem for one that is not a `HeaderId`."""
    value = request.headers.get(header)
    if value is not None and not is_header_id(value):
        raise malformed(header, f"1 to {MAX_HEADER_ID} characters, no control characters among them")
    return value
