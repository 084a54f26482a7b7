"""A service with only what all services have."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from annals.web import ServiceApp, create_app
from annals.web.settings import ServiceSettings


@asynccontextmanager
async def _lifespan(_: Any) -> AsyncIterator[None]:
    yield


async def _ready() -> Mapping[str, str]:
    return {}


def bare_app(settings: ServiceSettings | None = None) -> ServiceApp:
    """Return the application, which is always ready."""
    app = create_app("Test", settings or ServiceSettings(), lifespan=_lifespan)
    app.ready = _ready
    return app
