"""A service's connections to its sidecar and, through the sidecar, to other apps."""

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
    """Yield a client for the sidecar, and one for other apps with at most so many `connections`."""
    token = settings.sidecar_token
    sidecar = DaprSidecar(settings.dapr_grpc_port, timeout=settings.sidecar_timeout, api_token=token)
    invocation = ServiceInvocation(settings.dapr_http_port, api_token=token, connections=connections)
    try:
        yield sidecar, invocation
    finally:
        await invocation.close()
        await sidecar.close()
