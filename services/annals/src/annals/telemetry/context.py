"""Whose work this is: ids that logs, spans and events take from the request at hand."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import structlog


@contextmanager
def bound(**ids: str | None) -> Iterator[None]:
    """Put ids (tenant, correlation_id, ...) on every log line written within."""
    with structlog.contextvars.bound_contextvars(**{name: value for name, value in ids.items() if value}):
        yield
