"""Reads the messages that a sidecar delivers, and builds the responses to them."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from typing import Any

import ijson
import orjson
from fastapi import Response
from ijson.common import JSONError, ObjectBuilder

from annals.web.answers import json_answer
from annals.web.problems import Problem, malformed, not_json
from annals.web.request_body import parsed


def delivery(body: bytes) -> Any:
    """Parse a delivery of a bulk subscription: a message, or a bulk, which is an object with `entries`.

    An entry nested too deeply for orjson does not keep the others from being read. Raises a Problem for a
    body that no sidecar sends.
    """
    deep = False
    try:
        value = parsed(body)
    except Problem:
        value, deep = _deep(body), True
    entries = value.get("entries", []) if isinstance(value, dict) else []
    if not isinstance(entries, list) or not all(
        isinstance(one, dict) and isinstance(one.get("entryId"), str) for one in entries
    ):
        raise malformed("entries", "a bulk as the sidecar sends it")
    if deep:
        for one in entries:
            one["event"] = _plain(one.get("event"))
    return value


def _deep(body: bytes) -> Any:
    """Parse JSON of any depth. Raises a Problem for anything else."""
    # Not `ijson.items`: it builds the path of every value, whose length grows with the depth.
    builder: Any = ObjectBuilder()  # type: ignore[no-untyped-call]  # ijson has no types
    try:
        for event, value in ijson.basic_parse(io.BytesIO(body)):
            builder.event(event, value)
    except JSONError as error:
        raise not_json(error) from error
    return builder.value


def _plain(event: Any) -> Any:
    """Return an event with floats in place of `Decimal`; one nested too deeply for orjson stays as it is."""
    try:
        return orjson.loads(orjson.dumps(event, default=float))
    except orjson.JSONEncodeError:
        return event


def message(body: bytes) -> Any:
    """Parse a message that is delivered on its own, not in a bulk: JSON, otherwise text."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="backslashreplace")


def published(body: bytes) -> Any:
    """Return the message in a delivery of a `rawPayload` subscription: JSON, otherwise text.

    Raises a Problem for a body that is not JSON, or whose `data_base64` is not Base64.
    """
    value = parsed(body)
    given = value.get("data_base64") if isinstance(value, dict) else None
    try:
        return message(base64.b64decode(given or "", validate=True))
    except (ValueError, TypeError) as error:
        raise malformed("data_base64", "what was published, in Base64") from error


def statuses(by_entry: Mapping[str, str]) -> Response:
    """Answer a bulk with a status for each entry: SUCCESS, RETRY or DROP."""
    listed = [{"entryId": entry, "status": status} for entry, status in by_entry.items()]
    return json_answer({"statuses": listed})


def status(what: str) -> Response:
    """Answer a single message with its status: SUCCESS, RETRY or DROP."""
    return json_answer({"status": what})


def acknowledge_hints(body: bytes) -> Response:
    """Acknowledge a whole delivery of hints: the events are read from the store. Raises a Problem."""
    value = delivery(body)
    entries = value.get("entries") if isinstance(value, dict) else None
    if entries is None:
        return status("SUCCESS")
    return statuses({entry["entryId"]: "SUCCESS" for entry in entries})
