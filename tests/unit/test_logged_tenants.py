"""The id of a saga, a subject or a stream is unique only within a tenant, which a log line names as well."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import annals

_SOURCES = Path(annals.__file__).parent
_LEVELS = {"debug", "info", "warning", "error", "exception"}
_WITHIN_A_TENANT = {"saga", "subject", "event_id"}
_TENANT = {"tenant", "stream"}  # the name of a stream in a log begins with its tenant, if that is not named


def _lines(path: Path) -> list[tuple[int, set[str | None]]]:
    """Return where a module logs, and with which fields."""
    return [
        (call.lineno, {keyword.arg for keyword in call.keywords})
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in _LEVELS
        and isinstance(call.func.value, ast.Name)
        and call.func.value.id == "_log"
    ]


@pytest.mark.parametrize("package", ["sagas", "store", "privacy"])
def test_whoever_logs_an_id_within_a_tenant_logs_the_tenant(package: str) -> None:
    found = [
        f"{path.name}:{line}"
        for path in sorted((_SOURCES / package).glob("*.py"))
        for line, fields in _lines(path)
        if fields & _WITHIN_A_TENANT and not fields & _TENANT
    ]
    assert found == []
