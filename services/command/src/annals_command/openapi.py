"""The OpenAPI description of each command: one path a type, as callers see it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI

from annals.aggregates import Handler

_HEADERS = ("x-tenant-id", "x-user-id", "x-correlation-id", "Idempotency-Key", "If-Match")
_ANSWERS = {
    "201": "Done, and the aggregate is new.",
    "200": "Done.",
    "400": "Malformed: which fields, and what was expected.",
    "403": "Only one user may send it, and this is somebody else.",
    "404": "No such aggregate.",
    "409": "Conflict: the aggregate is at another version than expected.",
    "422": "A rule refuses it; `rule` names it.",
    "503": "Not now; Retry-After says when.",
}


def describe_commands(app: FastAPI, handlers: Iterable[Handler[Any, Any]]) -> None:
    """Add every command to what `/openapi.json` says."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        for handler in handlers:
            document["paths"].setdefault(f"/commands/{handler.command.command_type}", _path(handler))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _path(handler: Handler[Any, Any]) -> dict[str, Any]:
    schema = handler.command.model_json_schema()
    never = {"200" if handler.creates else "201"} | ({"403"} if handler.sender is None else set())
    return {
        "post": {
            "summary": (handler.command.__doc__ or "").strip(),
            "tags": [handler.aggregate.aggregate_type],
            "parameters": [
                {"name": name, "in": "header", "required": False, "schema": {"type": "string"}}
                for name in _HEADERS
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}},
            "responses": {
                status: {"description": text} for status, text in _ANSWERS.items() if status not in never
            },
        }
    }
