"""Answers to what a sidecar delivers."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import Response

from annals.web.problems import malformed
from annals.web.request_body import parsed


def delivery(body: bytes) -> dict[str, Any]:
    """What a sidecar delivers: a CloudEvent, or a bulk of them in `entries`. Raises a Problem."""
    value = _object(body)
    entries = value.get("entries", [])
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and isinstance(one.get("entryId"), str) for one in entries
    ):
        raise malformed("entries", "a bulk as the sidecar sends it")
    return value


def _object(body: bytes) -> dict[str, Any]:
    value = parsed(body)
    if not isinstance(value, dict):
        raise malformed("(body)", "a delivery as the sidecar sends it")
    return value


def published(body: bytes) -> Any:
    """What somebody published, from a delivery of a subscription with `rawPayload`: JSON, or else text.

    Raises a Problem.
    """
    given = _object(body).get("data_base64")
    try:
        raw = base64.b64decode(given if isinstance(given, str) else "", validate=True)
    except ValueError as error:
        raise malformed("data_base64", "what was published, in Base64") from error
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
    """All of it was taken as a hint: what it says is read elsewhere. Raises a Problem."""
    entries = delivery(body).get("entries")
    if entries is None:
        return status("SUCCESS")
    return statuses({entry["entryId"]: "SUCCESS" for entry in entries})
