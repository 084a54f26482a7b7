"""What an import reports when it has finished."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals

LINES = b'{"format":"annals-export/1","lanes":{"0":1}}\n{"lane":0,"seq":1,"commit":"{}","events":[]}\n'


@pytest.fixture
def backup(tmp_path: Path) -> str:
    file = tmp_path / "backup.jsonl"
    end = {"commits": 1, "events": 1, "sha256": hashlib.sha256(LINES).hexdigest()}
    file.write_bytes(b'{"read_models": []}\n' + LINES + json.dumps({"end": end}).encode() + b"\n")
    return str(file)


def without_projector(request: httpx.Request) -> httpx.Response:
    """A command service that accepts everything, beside a projector that is down."""
    if "/invoke/projector/" in request.url.path:
        said = {"errorCode": "ERR_DIRECT_INVOKE", "message": "failed to resolve address"}
        return httpx.Response(500, json=said)
    return httpx.Response(200, json={"commits": 1})


def test_an_import_is_through_though_the_projector_is_stopped(annals: Annals, backup: str) -> None:
    result = annals(without_projector, "import", backup)
    assert result.exit_code == Exit.DONE
    assert "1 events of 1 commits are in the store (1 commits were new)" in result.stdout
    assert "It is not known whether read models changed since the export: the service" in result.stderr


def test_programs_are_told_that_what_changed_is_not_known(annals: Annals, backup: str) -> None:
    result = annals(without_projector, "--json", "import", backup)
    assert json.loads(result.stdout) == {"commits": 1, "taken": 1, "changed_read_models": None}
    assert result.stderr == ""


@pytest.mark.parametrize(
    ("damaged", "as_damaged"),
    [
        (b'{"read_models": []}', b'{"read_models": [}'),
        (b'{"read_models": []}', b'{"read_models": 7}'),
        (b'{"read_models": []}', b'{"read_models": [{"name": "tasks"}]}'),
        (b'{"read_models": []}', b'{"read_models": ["\xff"]}'),
        (b'"sha256"', b'"sha257"'),
        (b'"commits"', b'"komits"'),
        (b'{"end": {', b'{"end": 3, "was": {'),
    ],
)
def test_nothing_is_sent_of_a_file_whose_first_or_last_line_was_altered(
    annals: Annals, backup: str, damaged: bytes, as_damaged: bytes
) -> None:
    """The checksum covers the lines between them."""
    file = Path(backup)
    file.write_bytes(file.read_bytes().replace(damaged, as_damaged))
    sent: list[httpx.Request] = []

    def taking(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        return without_projector(request)

    with pytest.raises(Failed, match="the file was altered") as failure:
        annals(taking, "import", backup)
    assert (failure.value.code, sent) == (Exit.USAGE, [])
