"""What routes answer, and how they say it in the OpenAPI document.

Rows come out of the database as they are to be answered. A route names the model of its rows for the
document, as its `response_model`, and answers by `json_answer`, which passes them on unlooked at; that
the two agree is for the tests to show.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Generic, TypeVar

import orjson
from fastapi import Response
from pydantic import BaseModel, ConfigDict

T = TypeVar("T")


class Answer(BaseModel):
    """What a route answers, described by the docstrings of its fields."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class Page(Answer, Generic[T]):
    """Some of what was found."""

    items: list[T]
    next: str | None
    """The `cursor` of the page that follows; null when there is none."""


def json_answer(value: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A value as JSON; moments in UTC end in Z."""
    return Response(orjson.dumps(value, option=orjson.OPT_UTC_Z), status, headers, "application/json")
