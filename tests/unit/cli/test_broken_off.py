"""What comes line by line, and ends in the middle of one."""

from __future__ import annotations

import json
from pathlib import Path

import httpx
import pytest

from annals_cli.sidecar import Exit, Failed
from unit.cli.conftest import Annals, Handler

PROGRESS = b'{"progress":{"lane":0,"seq":1,"of":2}}\n'
RESULT = json.dumps({"result": {"ok": True, "events": 2, "lanes": {}, "findings": []}}).encode() + b"\n"
COMMIT = b'{"lane":0,"seq":1,"commit":"{}"}\n'
END = b'{"end":{"events":1,"commits":1,"sha256":"-"}}\n'


def exporting(body: bytes) -> Handler:
    """A store's export of this; the other answers it goes by are empty."""
    return lambda request: (
        httpx.Response(200, content=body)
        if request.url.path.endswith("store/export")
        else httpx.Response(200, json={"items": []})
    )


def test_a_verification_that_came_to_its_end_is_one(annals: Annals) -> None:
    result = annals(lambda _: httpx.Response(200, content=PROGRESS + RESULT), "audit", "verify")
    assert (result.exit_code, "2 events are as they were recorded" in result.output) == (Exit.DONE, True)


@pytest.mark.parametrize("half", [b"", PROGRESS[:20], b'{"error":"\xc3', RESULT[:30]])
def test_a_verification_that_broke_off_is_said_to_be_none(annals: Annals, half: bytes) -> None:
    with pytest.raises(Failed, match="broken off") as raised:
        annals(lambda _: httpx.Response(200, content=PROGRESS + half), "audit", "verify")
    assert raised.value.code is Exit.UNAVAILABLE


def test_an_export_that_came_to_its_end_is_written(annals: Annals, tmp_path: Path) -> None:
    annals(exporting(COMMIT + END), "export", str(tmp_path / "all"))
    assert (tmp_path / "all").read_bytes().endswith(COMMIT + END)


@pytest.mark.parametrize("half", [b"", COMMIT[:20], END[:10], END[:30]])
def test_an_export_that_broke_off_leaves_no_file(annals: Annals, tmp_path: Path, half: bytes) -> None:
    with pytest.raises(Failed, match="broken off") as raised:
        annals(exporting(COMMIT + half), "export", str(tmp_path / "all"))
    assert raised.value.code is Exit.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []
