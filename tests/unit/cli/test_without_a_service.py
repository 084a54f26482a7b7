"""Everything that is possible while a service is away still works."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals, Handler

LINES = b'{"format":"annals-export/1","lanes":{"0":1}}\n{"lane":0,"seq":1,"commit":"{}","events":[]}\n'
END = {"commits": 1, "events": 1, "sha256": hashlib.sha256(LINES).hexdigest()}
SETTING = {"key": "read_only", "value": True, "default": False, "by": "ada", "why": "a restore"}
READ_MODEL = {"name": "tasks", "version": 3, "definition": {"columns": {}}}


def without(*away: str) -> Handler:
    """Return a handler for all services except those that are away."""

    def answer(request: httpx.Request) -> httpx.Response:
        service, _, path = request.url.path.removeprefix("/v1.0/invoke/").partition("/method/")
        if service in away:
            said = {"errorCode": "ERR_DIRECT_INVOKE", "message": "failed to resolve address"}
            return httpx.Response(500, json=said)
        if path == "store/export":
            return httpx.Response(200, content=LINES + json.dumps({"end": END}).encode() + b"\n")
        if path == "store/import":
            return httpx.Response(200, json={"commits": 1})
        items = {"settings": [SETTING | {"key": f"{service}.read_only"}], "projections": [READ_MODEL]}
        return httpx.Response(200, json={"items": items.get(path, [])})

    return answer


def test_a_backup_is_made_without_the_projector(annals: Annals, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    result = annals(without("projector"), "export", str(file))
    assert result.exit_code == Exit.DONE
    assert "The file lacks the definitions of the read models: the service projector" in result.stderr
    assert file.read_bytes().startswith(b'{"read_models": []}\n' + LINES)

    taken = annals(without(), "import", str(file))
    assert "It is not known whether read models changed since the export" in taken.stderr
    program = annals(without(), "--json", "import", str(file))
    assert json.loads(program.stdout)["changed_read_models"] is None


def test_a_backup_says_what_the_read_models_are(annals: Annals, tmp_path: Path) -> None:
    file = tmp_path / "backup.jsonl"
    assert "read models" not in annals(without(), "export", str(file)).stderr
    assert json.loads(file.read_bytes().splitlines()[0]) == {"read_models": [READ_MODEL]}
    assert "read models" not in annals(without(), "import", str(file)).stderr


def test_the_settings_of_those_that_answer_are_shown(annals: Annals) -> None:
    result = annals(without("projector", "notification"), "config", "list")
    assert result.exit_code == Exit.UNAVAILABLE
    assert "command.read_only" in result.stdout
    assert "saga-orchestrator.read_only" in result.stdout
    assert "the service projector" in result.stderr
    assert "the service notification" in result.stderr

    program = annals(without("projector"), "--json", "config", "list")
    assert program.exit_code == Exit.UNAVAILABLE
    assert json.loads(program.stdout).keys() == {"command", "saga-orchestrator", "notification"}


def test_where_no_service_answers_there_is_nothing_to_show(annals: Annals) -> None:
    with pytest.raises(Failed, match="the service command"):
        annals(without("command", "projector", "saga-orchestrator", "notification"), "config", "list")
