"""Admission: whether the service currently accepts requests that change something."""

from __future__ import annotations

from typing import Any

from annals.live import LiveSettings
from annals.web.problems import Problem, unavailable


def admit(live: LiveSettings[Any]) -> None:
    """Raise a Problem (503 with Retry-After) unless the service currently accepts changes."""
    if not live.asked.is_set():
        detail = "the service has just started and does not know yet whether it is read-only"
        raise unavailable(detail, seconds=1)
    if live.read_only:
        detail = "an operator has made the service read-only; this request changed nothing"
        raise Problem(503, "read-only", detail, headers={"Retry-After": "30"})
