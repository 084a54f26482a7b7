"""What a service's OpenAPI document says beside what FastAPI knows: errors, and bodies that routes read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

_COMPONENTS = "#/components/schemas/"
_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem details.",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string", "description": "urn:annals:problem:…"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "errors": {
            "type": "array",
            "description": "which fields are wrong, and what was expected there",
            "items": {
                "type": "object",
                "properties": {"field": {"type": "string"}, "expected": {"type": "string"}},
            },
        },
    },
    "additionalProperties": True,
}
_ANSWER = {
    "description": "Something is wrong: what, and what was expected.",
    "content": {"application/problem+json": {"schema": {"$ref": f"{_COMPONENTS}Problem"}}},
}
_PARAMETERS = "#/components/parameters/"
_HEADERS = {
    "x-tenant-id": "Whose data it is; `default` without it.",
    "x-user-id": "Who asks.",
    "x-session-id": "In which session they ask.",
    "x-correlation-id": "What it belongs to; without it, it begins something.",
    "Idempotency-Key": "A repeat with the same key gets the first outcome.",
    "If-Match": 'Do it only if the aggregate is at this version, such as `"3"`.',
}
_OF_EVERYBODY = ("x-tenant-id", "x-user-id")
_REPLACED = "422"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})


def headers(*names: str) -> list[dict[str, Any]]:
    """The parameters of a route that reads these headers itself, beside who asks."""
    return [_header(name) for name in names]


def _header(name: str) -> dict[str, Any]:
    return parameter(name, "string", where="header") | {"description": _HEADERS[name]}


def parameter(name: str, kind: str, *, where: str = "query") -> dict[str, Any]:
    """A parameter that a route reads, or passes on, itself."""
    return {"name": name, "in": where, "required": False, "schema": {"type": kind}}


def json_body(of: Any, *, required: bool = True) -> dict[str, Any]:
    """The `openapi_extra` of a route that reads its body itself: the body is JSON, and of this type."""
    return _body(
        "application/json", TypeAdapter(of).json_schema(ref_template=f"{_COMPONENTS}{{model}}"), required
    )


def text_body(media_type: str) -> dict[str, Any]:
    """The same for a body that is a text of some other kind."""
    return _body(media_type, {"type": "string"}, required=True)


def _body(media_type: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {media_type: {"schema": schema}}}}


def problem(description: str) -> dict[str, Any]:
    """A route's answer to what it refuses, for its `responses`."""
    return _ANSWER | {"description": description}


def describe_api(app: FastAPI, *, public: bool) -> None:
    """Have `/openapi.json` name problem details, not FastAPI's errors, and define what bodies are made of.

    And the headers that say who asks, unless it is `public`: there the edge knows.
    """
    describe = app.openapi
    shared = {} if public else {name: _header(name) for name in _OF_EVERYBODY}

    def openapi() -> dict[str, Any]:
        document = describe()
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        if shared:
            components["parameters"] = shared
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = _PROBLEM
        for path in document["paths"].values():
            for operation in (path[method] for method in _METHODS & path.keys()):
                found = operation["responses"].get(_REPLACED, {}).get("content", {}).get("application/json")
                if found is not None:
                    del operation["responses"][_REPLACED]
                operation["responses"]["default"] = _ANSWER
                for name in shared:
                    reference = {"$ref": _PARAMETERS + name}
                    # FastAPI gives the same document again.
                    if reference not in (given := operation.setdefault("parameters", [])):
                        given.append(reference)
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    _define(schemas, content["schema"].pop("$defs", {}))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _define(schemas: dict[str, Any], definitions: Mapping[str, Any]) -> None:
    """Put what a body's schema refers to where OpenAPI looks for it."""
    for name, schema in definitions.items():
        if schemas.setdefault(name, schema) != schema:
            raise ValueError(f"two schemas are called {name}")
