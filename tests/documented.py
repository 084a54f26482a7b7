"""Checks the JSON that services answer in tests against their OpenAPI documents."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from suite.paths import ROOT

_SERVICES = {
    8001: "command",
    8002: "projector",
    8003: "saga-orchestrator",
    8004: "notification",
    8080: "console",
}
_INVOKED = re.compile(r"/v1\.0/invoke/([a-z-]+)/method(/.*)")
_JSON = "application/json"


async def as_documented(response: httpx.Response) -> None:
    """Fail if the service's document does not describe a JSON answer. It is an event hook of `httpx`."""
    if (
        not response.is_success
        or response.status_code == 204
        or response.headers.get("content-type") != _JSON
    ):
        return
    path, service = response.request.url.path, _SERVICES.get(response.request.url.port or 0)
    if through := _INVOKED.fullmatch(path):
        service, path = through.groups()
    if service is None:
        return
    schema = _schema(service, response.request.method.lower(), path, str(response.status_code))
    if schema is not None:
        await response.aread()
        errors = [f"{error.json_path}: {error.message}" for error in schema.iter_errors(response.json())]
        assert not errors, f"{response.request.method} {response.request.url}: {errors}"


def _schema(service: str, method: str, path: str, status: str) -> Draft202012Validator | None:
    """Return the validator of an answer, or None if the document leaves its path or operation out.

    The documents leave out probes, deliveries and the files of the page.
    """
    for template, pattern in _paths(service):
        if pattern.fullmatch(path) and (operation := _document(service)["paths"][template].get(method)):
            return _validator(service, template, method, status) if "responses" in operation else None
    return None


@cache
def _document(service: str) -> Mapping[str, Any]:
    text = (ROOT / "docs" / "api" / f"{service}.openapi.json").read_text()
    document: dict[str, Any] = json.loads(text, object_hook=_closed)
    return document


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    """Refuse fields that an object schema does not name, unless the schema allows them itself."""
    if schema.get("type") == "object" and "properties" in schema:
        return {"additionalProperties": False} | schema
    return schema


@cache
def _paths(service: str) -> list[tuple[str, re.Pattern[str]]]:
    """Return the path templates with their patterns, those with the fewest parameters first."""
    templates = sorted(_document(service)["paths"], key=lambda template: template.count("{"))
    return [(one, re.compile(re.sub(r"\\{[^/]*\\}", "[^/]+", re.escape(one)))) for one in templates]


@cache
def _validator(service: str, template: str, method: str, status: str) -> Draft202012Validator:
    document = _document(service)
    answers = document["paths"][template][method]["responses"]
    assert status in answers, f"{service} does not document that {method} {template} answers {status}"
    schema = answers[status].get("content", {}).get(_JSON, {}).get("schema", {})
    return Draft202012Validator(schema | {"components": document["components"]})
