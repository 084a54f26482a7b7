"""Who asks: tenant, user and ids from a request's headers."""

from __future__ import annotations

import re

from fastapi import Request

from annals.events import is_header_id, is_tenant
from annals.events.identity import MAX_HEADER_ID, TENANT
from annals.web.problems import malformed

_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}(?=-|\Z)")


def tenant_of(request: Request) -> str:
    """The request's tenant; raises a Problem for a malformed one."""
    tenant = request.headers.get("x-tenant-id") or "default"
    if not is_tenant(tenant):
        raise malformed("x-tenant-id", f"like {TENANT.pattern}")
    return tenant


def client_of(request: Request) -> str | None:
    """From where it is asked: the address that the edge saw, else the app that calls.

    Dapr names the calling app and puts the address of its host behind what `X-Forwarded-For` held
    (1.18, pkg/messaging/direct_messaging.go); a call through the app's own sidecar gets neither.
    """
    caller = request.headers.get("dapr-caller-app-id")
    given = ",".join(request.headers.getlist("x-forwarded-for"))
    addresses = [address for one in given.split(",") if (address := one.strip())]
    seen = addresses[:-1] if caller else addresses
    return (seen[0] if seen else caller or "")[:MAX_HEADER_ID] or None


def traceparent_of(request: Request) -> str | None:
    """The trace that a request belongs to; a header that is none counts for nothing, as W3C has it."""
    found = _TRACEPARENT.match(request.headers.get("traceparent", ""))
    return found[0] if found else None


def id_of(request: Request, header: str) -> str | None:
    """An id from a header; raises a Problem for what is no `HeaderId`."""
    value = request.headers.get(header)
    if value is not None and not is_header_id(value):
        raise malformed(header, f"1 to {MAX_HEADER_ID} characters, no control characters among them")
    return value
