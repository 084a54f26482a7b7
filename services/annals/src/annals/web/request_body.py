"""JSON bodies that no model describes."""

from __future__ import annotations

from typing import Any

import orjson

from annals.web.problems import Problem, malformed


def json_value(body: bytes) -> Any:
    """What a body holds. Raises a Problem when it is not JSON."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Problem(400, "malformed", f"the body is not JSON: {error}") from error


def json_object(body: bytes) -> dict[str, Any]:
    """The object that a body holds. Raises a Problem for anything else."""
    value = json_value(body)
    if not isinstance(value, dict):
        raise malformed("(body)", "a JSON object")
    return value
