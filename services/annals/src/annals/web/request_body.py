"""JSON bodies that no model describes, and types of text for those that a model does."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import Field, StringConstraints

from annals.web.problems import malformed, not_json

_NUL = b"\\u0000"
# orjson writes 254 levels and reads more. A body may have 200: a row, an event or a page comes around it.
_WRITTEN_DEEP = 254
_DEEPEST = 200

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""A text without NUL, which databases cannot store."""

Reason = Annotated[Text, Field(min_length=1, max_length=500)]
"""An operator's reason for a request."""


def parsed(body: bytes) -> Any:
    """Parse a body. Raises a Problem if it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(error) from error


def json_value(body: bytes) -> Any:
    """Parse a caller's body as JSON that can be stored and returned.

    Raises a Problem if it is not JSON, contains NUL, which databases cannot store, or is nested too deeply.
    """
    value = parsed(body)
    if body.count(b"{") + body.count(b"[") > _DEEPEST and _too_deep(value):
        raise malformed("(body)", f"JSON that is nested at most {_DEEPEST} levels deep")
    if _NUL in body and _holds_nul(value):
        raise malformed("(body)", "texts without NUL")
    return value


def json_object(body: bytes) -> dict[str, Any]:
    """Parse a body as a JSON object; see `json_value`. Raises a Problem for anything else."""
    value = json_value(body)
    if not isinstance(value, dict):
        raise malformed("(body)", "a JSON object")
    return value


def _too_deep(value: Any) -> bool:
    for _ in range(_WRITTEN_DEEP - _DEEPEST):
        value = [value]
    try:
        orjson.dumps(value)
    except orjson.JSONEncodeError:
        return True
    return False


def _holds_nul(value: Any) -> bool:
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str() as text:
                if "\0" in text:
                    return True
            case dict() as found:
                waiting += [*found, *found.values()]
            case list() as items:
                waiting += items
    return False
