"""The hash chain of a stream: each event's hash covers what it says and the hash before it. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

_OF_ITS_OWN = "hash"


def chained(content: Mapping[str, Any], previous: str) -> str:
    """Return the SHA-256, in hex, of the previous event's hash followed by an event's JSON object.

    `previous` is empty for the first event of a stream. The names are sorted, so the hash is the same if a
    store reorders JSON. The event's own hash is left out.
    """
    covered = {name: value for name, value in content.items() if name != _OF_ITS_OWN}
    return hashlib.sha256(previous.encode() + orjson.dumps(covered, option=orjson.OPT_SORT_KEYS)).hexdigest()
