"""What the component files hold, and that no credential is among it: each refers to the secret store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from suite.paths import ROOT

FILES = sorted((ROOT / "components").rglob("*.yaml"))

# Names of metadata that say where to connect, or as whom: never inline, whatever the value.
NAMES = re.compile(
    r"(?i)(pass(word|wd|phrase)?|secret|token|credentials?|connectionString|url|user(name)?|private_?key|"
    r"(access|master|account|shared|api|secret|client|tls|ca|sas)_?key|cert(ificate)?|dsn)$"
)
VALUES = re.compile(
    r"://[^/\s:@]*:[^/\s@]+@"  # user:password@ in an address
    r"|(?i:(password|pwd|secret|token|accountkey|sharedaccesskey|access_?key)\s*=\s*\S)"
    r"|-----BEGIN "
    r"|\b(?=[A-Za-z0-9+/_-]*\d)(?=[A-Za-z0-9+/_-]*[A-Z])[A-Za-z0-9+/_-]{20,}={0,2}"  # looks like a key
    r"|\b[0-9a-f]{32,}\b"
)


def inline_credentials(document: dict[str, Any]) -> Iterator[str]:
    """Yield whatever a resource holds that only the secret store may hold."""
    if document["kind"] == "Component":
        items = document["spec"].get("metadata", [])
        yield from (one["name"] for one in items if NAMES.search(one["name"]) and "secretKeyRef" not in one)
        refers = any("secretKeyRef" in one for one in items)
        if refers and document.get("auth", {}).get("secretStore") != "secretstore":
            yield "auth.secretStore"
    yield from (text for text in texts(document) if VALUES.search(text))


def texts(value: Any) -> Iterator[str]:
    """Yield all texts in a document."""
    match value:
        case dict():
            for item in value.values():
                yield from texts(item)
        case list():
            for item in value:
                yield from texts(item)
        case str():
            yield value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "components")))
def test_a_component_file_holds_no_credential(path: Any) -> None:
    found = [
        f"{document['metadata']['name']}: {one}"
        for document in yaml.safe_load_all(path.read_text())
        for one in inline_credentials(document)
    ]
    assert not found


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("password", "x"),
        ("redisPassword", ""),
        ("saslUsername", "annals"),
        ("masterKey", "x"),
        ("accessKey", "x"),
        ("apiToken", "x"),
        ("clientSecret", "x"),
        ("connectionString", "host=db user=annals"),
        ("url", "postgres://db/annals"),
        ("brokers", "nats://annals:hunter2@nats:4222"),
        ("extra", "host=db password=hunter2"),
        ("extra", "Endpoint=sb://x/;SharedAccessKey=hunter2"),
        ("extra", "-----BEGIN PRIVATE KEY-----"),
        ("extra", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"),
        ("extra", "9f86d081884c7d659a2feaa0c55ad015"),
    ],
)
def test_an_inline_credential_is_found(name: str, value: str) -> None:
    component = {"kind": "Component", "spec": {"metadata": [{"name": name, "value": value}]}}
    assert list(inline_credentials(component))


def test_a_reference_needs_the_secret_store() -> None:
    reference = {"name": "url", "secretKeyRef": {"name": "postgres", "key": "postgres"}}
    component = {"kind": "Component", "spec": {"metadata": [reference]}}
    assert list(inline_credentials(component)) == ["auth.secretStore"]
    assert not list(inline_credentials(component | {"auth": {"secretStore": "secretstore"}}))


def test_redis_is_told_in_milliseconds_how_often_to_look() -> None:
    """Redis' component ignores an interval with a unit (components-contrib 1.18)."""
    (file,) = (ROOT / "components" / "brokers" / "redis").glob("*.yaml")
    found = [
        item["value"]
        for document in yaml.safe_load_all(file.read_text())
        for item in document["spec"]["metadata"]
        if item["name"] == "redeliverInterval"
    ]
    assert found == ["30000"] * 4
