"""JSON bodies that no model describes, and the texts in those that one does."""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from pydantic import Field, StringConstraints

from annals.web.problems import malformed, not_json

_NUL = b"\\u0000"
# orjson reads what is nested deeper than it writes; and a row, an event or a page comes round it.
_WRITTEN_DEEP = 254
_DEEPEST = 200

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]
"""A text that databases hold: without NUL."""

Reason = Annotated[Text, Field(min_length=1, max_length=500)]
"""Why an operator does something."""


def parsed(body: bytes) -> Any:
    """What a body holds. Raises a Problem when it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise not_json(error) from error


def json_value(body: bytes) -> Any:
    """What a caller sends.

    Raises a Problem when it is not JSON, holds a NUL, which databases do not, or is nested too deeply.
    """
    value = parsed(body)
    if body.count(b"{") + body.count(b"[") > _DEEPEST and _too_deep(value):
        raise malformed("(body)", f"JSON that is nested {_DEEPEST} deep at most")
    if _NUL in body and _holds_nul(value):
        raise malformed("(body)", "texts without NUL")
    return value


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises a Problem for anything else."""
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
