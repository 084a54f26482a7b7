"""The keys of the event store on a state API, all computed: that API cannot list what it has.

No part may hold `||`, which Dapr keeps for itself; streams and tenants cannot by their own rules.
"""

from __future__ import annotations

import hashlib

from annals.events import StreamId

_LONGEST = 255  # of a key on state.mysql


def event(stream: StreamId, version: int) -> str:
    """One event."""
    return f"stream/{stream.tenant}/{stream.name}/{version}"


def head(stream: StreamId) -> str:
    """A stream's version and folded state."""
    return f"stream/{stream.tenant}/{stream.name}/head"


def command(tenant: str, command_id: str) -> str:
    """The outcome of a command; the tenant in it keeps one from reading another's."""
    key = _whole(tenant, command_id)
    if len(key) <= _LONGEST:
        return key
    return f"command-digest/{tenant}/{hashlib.sha256(command_id.encode()).hexdigest()}"


def command_of_before(tenant: str, command_id: str) -> str | None:
    """Where a command whose id is that long had its outcome, on stores that take it, until digests came."""
    key = _whole(tenant, command_id)
    return key if len(key) > _LONGEST else None


def _whole(tenant: str, command_id: str) -> str:
    return f"command/{tenant}/{command_id}"


def log(lane: int, seq: int) -> str:
    """One commit of a lane."""
    return f"log/{lane}/{seq}"


def lease(lane: int) -> str:
    """Who may write a lane, and until when."""
    return f"lane/{lane}/lease"


def published(lane: int) -> str:
    """How far a lane is published."""
    return f"lane/{lane}/published"


def checkpoint(lane: int, number: int | None = None) -> str:
    """A signed checkpoint of a lane's log; without a number, the last."""
    return f"checkpoint/{lane}" if number is None else f"checkpoint/{lane}/{number}"


def subject(tenant: str, subject_id: str) -> str:
    """The wrapped key of somebody whose personal data is kept."""
    return f"subject/{tenant}/{subject_id}"


def imported(lane: int) -> str:
    """Up to where a lane came from a backup: what follows the store does not act on it again."""
    return f"lane/{lane}/imported"


def follower(name: str) -> str:
    """Who follows the store under a name, and how far they have come."""
    return f"follower/{name}"
