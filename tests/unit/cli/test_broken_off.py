"""Line-by-line answers that end in the middle of a line."""

from __future__ import annotations

import json
import os
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
    """Return a handler whose export has this body; the other answers it needs are empty."""
    return lambda request: (
        httpx.Response(200, content=body)
        if request.url.path.endswith("store/export")
        else httpx.Response(200, json={"items": []})
    )


def test_a_verification_that_came_to_its_end_is_one(annals: Annals) -> None:
    result = annals(lambda _: httpx.Response(200, content=PROGRESS + RESULT), "audit", "verify")
    assert (result.exit_code, "2 events are as they were recorded" in result.output) == (Exit.DONE, True)


def test_what_a_verification_finds_is_not_called_more_than_wrong(annals: Annals) -> None:
    nowhere = dict.fromkeys(("tenant", "stream", "version", "event_id"))
    finding = {"reason": "the log ends at 7, but was written up to 9", "lane": 0, "seq": 7} | nowhere
    found = {"ok": False, "events": 7, "lanes": {"0": {"seq": 7, "signed": 5}}, "findings": [finding]}
    said = json.dumps({"result": found}).encode() + b"\n"
    result = annals(lambda _: httpx.Response(200, content=said), "audit", "verify")
    assert result.exit_code == Exit.FOUND_WRONG
    assert result.stdout.splitlines() == [
        "lane 0: verified to 7, signed to 5",
        "wrong  lane 0 after 7: the log ends at 7, but was written up to 9",
    ]


@pytest.mark.parametrize("half", [b"", PROGRESS[:20], b'{"error":"\xc3', RESULT[:30]])
def test_a_verification_that_broke_off_is_said_to_be_none(annals: Annals, half: bytes) -> None:
    with pytest.raises(Failed, match="broken off") as raised:
        annals(lambda _: httpx.Response(200, content=PROGRESS + half), "audit", "verify")
    assert raised.value.code is Exit.UNAVAILABLE


def test_an_export_that_came_to_its_end_is_written(annals: Annals, tmp_path: Path) -> None:
    annals(exporting(COMMIT + END), "export", str(tmp_path / "all"))
    assert (tmp_path / "all").read_bytes().endswith(COMMIT + END)


def test_an_export_says_that_it_is_of_all_tenants(annals: Annals, tmp_path: Path) -> None:
    result = annals(exporting(COMMIT + END), "--tenant", "acme", "export", str(tmp_path / "all"))
    assert "1 events of 1 commits, of all tenants, in" in result.output


@pytest.mark.parametrize(("size", "said"), [(900_000, False), (1_100_000, True)])
def test_an_export_says_what_an_import_needs_large_requests_for(
    annals: Annals, tmp_path: Path, size: int, *, said: bool
) -> None:
    firsts = [COMMIT.replace(b"{}", b"x" * size).replace(b":0", b":%d" % lane) for lane in (0, 1)]
    others = COMMIT.replace(b"{}", b"x" * 2_000_000).replace(b'"seq":1', b'"seq":12')
    result = annals(exporting(b"".join([*firsts, others, END])), "export", str(tmp_path / "all"))
    assert ("an import sends them in one request" in " ".join(result.stderr.split())) is said


@pytest.mark.parametrize("half", [b"", COMMIT[:20], END[:10], END[:30]])
def test_an_export_that_broke_off_leaves_no_file(annals: Annals, tmp_path: Path, half: bytes) -> None:
    with pytest.raises(Failed, match="broken off") as raised:
        annals(exporting(COMMIT + half), "export", str(tmp_path / "all"))
    assert raised.value.code is Exit.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def test_an_export_that_broke_off_by_a_damaged_value_says_which(annals: Annals, tmp_path: Path) -> None:
    said = b'{"failed":"stream/default/task-7/event/1 cannot be decoded"}\n'
    with pytest.raises(Failed, match="broken off: stream/default/task-7/event/1") as raised:
        annals(exporting(COMMIT + said), "export", str(tmp_path / "all"))
    assert raised.value.code is Exit.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []


def test_an_export_goes_to_standard_output_with_nothing_beside_it(annals: Annals) -> None:
    result = annals(exporting(COMMIT + END), "export", "-")
    assert result.stdout_bytes == b'{"read_models": []}\n' + COMMIT + END
    assert "1 events of 1 commits" in result.stderr

    result = annals(exporting(COMMIT + END), "--json", "export", "-")
    assert result.stdout_bytes.endswith(COMMIT + END)
    assert json.loads(result.stderr)["commits"] == 1


def test_an_export_to_standard_output_that_broke_off_is_said_to_be_none(annals: Annals) -> None:
    with pytest.raises(Failed, match="broken off; what was written is incomplete") as raised:
        annals(exporting(COMMIT), "export", "-")
    assert raised.value.code is Exit.UNAVAILABLE


def test_what_is_no_file_is_not_written_over(annals: Annals, tmp_path: Path) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for there in (pipe, link, tmp_path):
        with pytest.raises(Failed, match="not a file") as raised:
            annals(exporting(COMMIT + END), "export", str(there))
        assert raised.value.code is Exit.USAGE
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert sorted(tmp_path.iterdir()) == [link, pipe]


def test_what_a_link_leads_to_is_written(annals: Annals, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "all")
    for _ in range(2):
        annals(exporting(COMMIT + END), "export", str(tmp_path / "link"))
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "all").read_bytes().endswith(COMMIT + END)


def test_an_import_wants_what_can_be_read_twice(annals: Annals) -> None:
    def asked(_: httpx.Request) -> httpx.Response:
        raise AssertionError("something was sent")

    reads, writes = os.pipe()
    os.write(writes, b'{"read_models": []}\n' + END)
    os.close(writes)
    try:
        with pytest.raises(Failed, match="read twice") as raised:
            annals(asked, "import", f"/proc/self/fd/{reads}")
        assert raised.value.code is Exit.USAGE
    finally:
        os.close(reads)
