"""What a service's OpenAPI document says of errors: problem details, as they really are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

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
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_REPLACED = "422"
_METHODS = frozenset({"get", "put", "post", "delete", "patch"})


def describe_problems(app: FastAPI) -> None:
    """Have `/openapi.json` name problem details in the place of FastAPI's own validation errors."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        schemas["Problem"] = _PROBLEM
        for path in document["paths"].values():
            for operation in (path[method] for method in _METHODS & path.keys()):
                found = operation["responses"].get(_REPLACED, {}).get("content", {}).get("application/json")
                if found is not None:
                    del operation["responses"][_REPLACED]
                operation["responses"]["default"] = _ANSWER
        return document

    app.openapi = openapi  # type: ignore[method-assign]
