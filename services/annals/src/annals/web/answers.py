"""Models and JSON of responses.

The database returns rows in the shape of the response. A route names the model of its rows as
`response_model`, for the OpenAPI document only, and returns the rows with `json_answer`, which does not
validate them. The tests check that rows and models agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Answer(BaseModel):
    """Base of the response models; the docstrings of the fields become their descriptions."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(Answer, Generic[T]):
    """One page of results."""

    items: list[T]
    next: str | None
    """The `cursor` of the next page; null if there is none."""


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a JSON response; datetimes in UTC are written with a trailing Z."""
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), status, headers, "application/json")
