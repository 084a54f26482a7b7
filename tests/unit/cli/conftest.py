"""Runs the command line against services that answer as the test says."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from typer.testing import CliRunner, Result

from annals_cli import live, main
from annals_cli.sidecar import Sidecar

Handler = Callable[[httpx.Request], httpx.Response]
Annals = Callable[..., Result]


@pytest.fixture
def annals(monkeypatch: pytest.MonkeyPatch) -> Annals:
    """Return a function that runs the program. If it raises, the error carries its stderr as a note."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(live, "_AGAIN_SECONDS", 0.0)

    def run(handler: Handler, *arguments: str, stdin: bytes = b"") -> Result:
        http = httpx.Client(transport=httpx.MockTransport(handler))
        monkeypatch.setattr(main, "Sidecar", lambda url, headers: Sidecar(url, headers, http))
        result = CliRunner().invoke(main.app, list(arguments), input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            result.exception.add_note(result.stderr)
            raise result.exception
        return result

    return run
