"""Whether commands are taken at all, as an operator wants it now."""

from __future__ import annotations

from annals.live import LiveSettings
from annals.web import Problem
from annals.web.problems import unavailable
from annals_command.settings import CommandLive


def admit(live: LiveSettings[CommandLive]) -> None:
    """Return when commands are taken. Raises a Problem: 503 with Retry-After."""
    if not live.asked.is_set():
        detail = "the service has just started, and does not know yet whether it may take commands"
        raise unavailable(detail, seconds=1)
    if live.current.read_only:
        detail = "an operator has made the service read-only; nothing was changed"
        raise Problem(503, "read-only", detail, headers={"Retry-After": "30"})
