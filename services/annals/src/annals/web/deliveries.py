"""Answers to what a sidecar delivers."""

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
    """What a sidecar delivers where it may do so in bulks: a message, or an object with `entries`.

    An entry that is nested too deeply to be read keeps no other from being read. Raises a Problem for
    what a sidecar does not send.
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
    """JSON of any depth. Raises a Problem for anything else."""
    # Not ijson.items: that says of everything where it is, which is as long as the body is deep.
    builder: Any = ObjectBuilder()  # type: ignore[no-untyped-call]  # ijson has no types
    try:
        for event, value in ijson.basic_parse(io.BytesIO(body)):
            builder.event(event, value)
    except JSONError as error:
        raise not_json(error) from error
    return builder.value


def _plain(event: Any) -> Any:
    """An event with its numbers as they are read elsewhere; one that is nested too deeply stays as it is."""
    try:
        return orjson.loads(orjson.dumps(event, default=float))
    except orjson.JSONEncodeError:
        return event


def message(body: bytes) -> Any:
    """What a sidecar delivers by itself: JSON, or else text."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return body.decode(errors="backslashreplace")


def published(body: bytes) -> Any:
    """What somebody published, from a delivery of a subscription with `rawPayload`: JSON, or else text.

    Raises a Problem.
    """
    value = parsed(body)
    given = value.get("data_base64") if isinstance(value, dict) else None
    try:
        return message(base64.b64decode(given or "", validate=True))
    except (ValueError, TypeError) as error:
        raise malformed("data_base64", "what was published, in Base64") from error


def statuses(by_entry: Mapping[str, str]) -> Response:
    """What is to become of each entry of a bulk: SUCCESS, RETRY or DROP."""
    listed = [{"entryId": entry, "status": status} for entry, status in by_entry.items()]
    return json_answer({"statuses": listed})


def status(what: str) -> Response:
    """What is to become of a single message."""
    return json_answer({"status": what})


def hinted(body: bytes) -> Response:
    """All of it was taken as a hint: what it says is read elsewhere. Raises a Problem."""
    value = delivery(body)
    entries = value.get("entries") if isinstance(value, dict) else None
    if entries is None:
        return status("SUCCESS")
    return statuses({entry["entryId"]: "SUCCESS" for entry in entries})
