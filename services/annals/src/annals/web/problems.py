"""Problem details over HTTP (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import orjson
from fastapi import Request, Response
from pydantic import ValidationError

MEDIA_TYPE = "application/problem+json"


class Problem(Exception):
    """An error response that says what is wrong, for people and for programs.

    `type` is the end of the problem's URI (`urn:annals:problem:<type>`); `fields` are additional members.
    """

    def __init__(
        self,
        status: int,
        type: str,  # noqa: A002
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.type = type
        self.detail = detail
        self.headers = headers
        self.fields = fields

    def body(self) -> dict[str, Any]:
        """Return the problem as a JSON object."""
        return {
            "type": f"urn:annals:problem:{self.type}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        } | self.fields


def problem_response(problem: Problem) -> Response:
    """Return the HTTP response for a problem."""
    return Response(
        orjson.dumps(problem.body(), default=str),
        problem.status,
        dict(problem.headers) if problem.headers else None,
        MEDIA_TYPE,
    )


def invalid(errors: Sequence[Mapping[str, Any]]) -> Problem:
    """Return a 400 that names each field and what was expected there, from pydantic's errors."""
    return Problem(
        400,
        "malformed",
        "some fields are not as expected",
        errors=[
            {"field": ".".join(map(str, error["loc"])) or "(body)", "expected": error["msg"]}
            for error in errors
        ],
    )


def malformed(field: str, expected: str) -> Problem:
    """Return a 400 for one field."""
    detail = "the request is not as expected"
    return Problem(400, "malformed", detail, errors=[{"field": field, "expected": expected}])


def not_json(why: object) -> Problem:
    """Return a 400 for a body that is not JSON; `why` is the parser's message."""
    errors = [{"field": "(body)", "expected": "JSON"}]
    return Problem(400, "malformed", f"the body is not JSON: {why}", errors=errors)


def unavailable(detail: str, *, seconds: int = 2) -> Problem:
    """Return a 503 for a temporary condition; `seconds` is its Retry-After."""
    return Problem(503, "unavailable", detail, headers={"Retry-After": str(seconds)})


def damaged(error: Exception) -> Problem:
    """Return a 503 for a stored value that cannot be decoded.

    Somebody has to repair it, or a replica of another release can decode it.
    """
    return unavailable(f"{error}; it is damaged, or another release wrote it", seconds=60)


def from_validation(error: ValidationError) -> Problem:
    """Return a 400 for a validation error, without the refused input. See `invalid`."""
    return invalid(error.errors(include_url=False, include_context=False, include_input=False))


async def on_problem(_request: Request, error: Exception) -> Response:
    """Answer a `Problem`; an exception handler for FastAPI."""
    if not isinstance(error, Problem):
        raise TypeError("only problems come here") from error
    return problem_response(error)


async def on_unavailable(_request: Request, error: Exception) -> Response:
    """Answer a temporary failure, such as of the database, with a 503; an exception handler for FastAPI."""
    return problem_response(unavailable(f"{error}; send it again", seconds=1))


async def on_undecodable(_request: Request, error: Exception) -> Response:
    """Answer a stored value that cannot be decoded; an exception handler for FastAPI. See `damaged`."""
    return problem_response(damaged(error))
