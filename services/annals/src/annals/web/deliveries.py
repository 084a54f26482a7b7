"""Answers to what a sidecar delivers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response


def published(body: bytes) -> Any:
    """What somebody published, from a delivery of a subscription with `rawPayload`: JSON, or else text."""
    raw = base64.b64decode(orjson.loads(body)["data_base64"])
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        return raw.decode(errors="backslashreplace")


def statuses(by_entry: Mapping[str, str]) -> Response:
    """What is to become of each entry of a bulk: SUCCESS, RETRY or DROP."""
    listed = [{"entryId": entry, "status": status} for entry, status in by_entry.items()]
    return Response(orjson.dumps({"statuses": listed}), media_type="application/json")


def status(what: str) -> Response:
    """What is to become of a single message."""
    return Response(orjson.dumps({"status": what}), media_type="application/json")


def hinted(body: bytes) -> Response:
    """All of it was taken as a hint: what it says is read elsewhere."""
    entries = orjson.loads(body).get("entries")
    if entries is None:
        return status("SUCCESS")
    return statuses({entry["entryId"]: "SUCCESS" for entry in entries})
