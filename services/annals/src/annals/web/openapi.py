"""Additions to FastAPI's OpenAPI document: problem details, and what routes read from requests themselves."""

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
    "description": "The request failed: the problem says why, and what was expected.",
    "content": {"application/problem+json": {"schema": {"$ref": f"{_COMPONENTS}Problem"}}},
}
_PARAMETERS = "#/components/parameters/"
_HEADERS = {
    "x-tenant-id": "The tenant whose data it is; by default `default`.",
    "x-user-id": "The user who sends the request.",
    "x-session-id": "The session of the user.",
    "x-correlation-id": "The correlation that the request belongs to; without it, it starts a new one.",
    "Idempotency-Key": "A repeat of a request that succeeded, with the same key, gets the first answer; one"
    " that was refused is decided again.",
    "If-Match": 'Carry out the command only if the aggregate is at this version, such as `"3"`.',
}
_OF_EVERYBODY = ("x-tenant-id", "x-user-id")
_REPLACED = "422"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})


def headers(*names: str) -> list[dict[str, Any]]:
    """Describe headers that a route reads itself. Those for tenant and user are on every route anyway."""
    return [_header(name) for name in names]


def _header(name: str) -> dict[str, Any]:
    return parameter(name, "string", where="header") | {"description": _HEADERS[name]}


def parameter(name: str, kind: str, *, where: str = "query") -> dict[str, Any]:
    """Describe an optional parameter that a route reads, or passes on, without declaring it to FastAPI."""
    return {"name": name, "in": where, "required": False, "schema": {"type": kind}}


def json_body(of: Any, *, required: bool = True) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its body itself, as JSON of type `of`."""
    return _body(
        "application/json", TypeAdapter(of).json_schema(ref_template=f"{_COMPONENTS}{{model}}"), required
    )


def text_body(media_type: str) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that reads its body itself, as text of this media type."""
    return _body(media_type, {"type": "string"}, required=True)


def _body(media_type: str, schema: Mapping[str, Any], required: bool) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {media_type: {"schema": schema}}}}


def problem(description: str) -> dict[str, Any]:
    """Return an entry of a route's `responses` for a request that it refuses."""
    return _ANSWER | {"description": description}


def describe_api(app: FastAPI, *, public: bool) -> None:
    """Make `/openapi.json` describe problem details, not FastAPI's errors, and define the bodies' schemas.

    Unless the app is `public`, also describe the tenant and user headers; a public app, which is the edge,
    knows both from its own authentication.
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
                    # FastAPI returns the same document object each time.
                    if reference not in (given := operation.setdefault("parameters", [])):
                        given.append(reference)
                for content in operation.get("requestBody", {}).get("content", {}).values():
                    _define(schemas, content["schema"].pop("$defs", {}))
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _define(schemas: dict[str, Any], definitions: Mapping[str, Any]) -> None:
    """Move a body's definitions to the document's components. Raises ValueError if two of a name differ."""
    for name, schema in definitions.items():
        if schemas.setdefault(name, schema) != schema:
            raise ValueError(f"two schemas are called {name}")
