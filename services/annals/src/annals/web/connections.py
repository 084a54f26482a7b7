"""What a service reaches the outside with, for as long as it runs."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from annals.dapr import DaprSidecar, ServiceInvocation
from annals.dapr.invocation import CONNECTIONS
from annals.web.settings import ServiceSettings


@asynccontextmanager
async def connected(
    settings: ServiceSettings, *, connections: int = CONNECTIONS
) -> AsyncIterator[tuple[DaprSidecar, ServiceInvocation]]:
    """The sidecar, and the other apps behind it, over so many connections at most; closed at the end."""
    token = settings.sidecar_token
    sidecar = DaprSidecar(settings.dapr_grpc_port, timeout=settings.sidecar_timeout, api_token=token)
    invocation = ServiceInvocation(settings.dapr_http_port, api_token=token, connections=connections)
    try:
        yield sidecar, invocation
    finally:
        await invocation.close()
        await sidecar.close()
