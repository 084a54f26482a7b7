"""The keys of the event store on the state API. Every key is computed, since that API cannot list its keys.

No part of a key may contain `||`, which Dapr reserves; the rules for stream and tenant names exclude it.
"""

from __future__ import annotations

import hashlib

from annals.events import StreamId

_LONGEST = 255  # characters of a key on state.mysql


def event(stream: StreamId, version: int) -> str:
    """Return the key of one event."""
    return f"stream/{stream.tenant}/{stream.name}/{version}"


def head(stream: StreamId) -> str:
    """Return the key of a stream's head: its version and folded state."""
    return f"stream/{stream.tenant}/{stream.name}/head"


def command(tenant: str, command_id: str) -> str:
    """Return the key of a command's outcome; the tenant in it keeps tenants from reading each other's."""
    key = _whole(tenant, command_id)
    if len(key) <= _LONGEST:
        return key
    return f"command-digest/{tenant}/{hashlib.sha256(command_id.encode()).hexdigest()}"


def legacy_command_key(tenant: str, command_id: str) -> str | None:
    """Return the key that releases without digests used for a long command id; None for a short id."""
    key = _whole(tenant, command_id)
    return key if len(key) > _LONGEST else None


def _whole(tenant: str, command_id: str) -> str:
    return f"command/{tenant}/{command_id}"


def log(lane: int, seq: int) -> str:
    """Return the key of one commit of a lane."""
    return f"log/{lane}/{seq}"


def lease(lane: int) -> str:
    """Return the key of a lane's lease: who may write the lane, and until when."""
    return f"lane/{lane}/lease"


def published(lane: int) -> str:
    """Return the key of a lane's watermark: how far the lane is published."""
    return f"lane/{lane}/published"


def checkpoint(lane: int, number: int | None = None) -> str:
    """Return the key of a signed checkpoint of a lane's log; without `number`, of the last one."""
    return f"checkpoint/{lane}" if number is None else f"checkpoint/{lane}/{number}"


def subject(tenant: str, subject_id: str) -> str:
    """Return the key that holds a subject's wrapped encryption key."""
    return f"subject/{tenant}/{subject_id}"


def imported(lane: int) -> str:
    """Return the key that says up to where a lane was imported; followers do not act on that part again."""
    return f"lane/{lane}/imported"


def follower(name: str) -> str:
    """Return the key of a follower's place: which instance follows under a name, and how far it has come."""
    return f"follower/{name}"
