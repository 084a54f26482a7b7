"""A truncated export of the audit trail is not taken for an export."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from annals_cli.main import app
from annals_cli.sidecar import Exit, Failed
from fixed_answer import answering, head

ENTRY = b'{"time":"2030-01-01T00:00:00Z","user":"ada","type":"task.created"}\n'
ROW = b"time,user,type\r\n2030-01-01T00:00:00Z,ada,task.created\r\n"


async def export(body: bytes, file: Path, form: str) -> Result:
    """Return what `annals` makes of an answer that the sidecar ends properly, whatever its body."""
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if body else b"0\r\n\r\n"
    async with answering(head(b"application/x-ndjson") + chunk) as port:
        asked = ["--sidecar", f"http://127.0.0.1:{port}", "audit", "export", str(file), "--format", form]
        result = await asyncio.to_thread(CliRunner().invoke, app, asked)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("jsonl", ENTRY + b'{"end":{"entries":1}}\n'),
        ("csv", ROW + b"end,1,\r\n"),
    ],
)
async def test_a_whole_export_is_written_as_it_is(tmp_path: Path, form: str, body: bytes) -> None:
    file = tmp_path / "trail"
    assert "1 entries in" in (await export(body, file, form)).stdout
    assert file.read_bytes() == body

    result = await export(body, Path("-"), form)
    assert result.stdout_bytes == body
    assert "1 entries in" in result.stderr


@pytest.mark.parametrize(
    ("form", "body"),
    [
        ("jsonl", b""),
        ("jsonl", ENTRY),
        ("jsonl", ENTRY + ENTRY[:20]),
        ("jsonl", ENTRY + b'{"end":{"ent'),
        ("csv", b""),
        ("csv", ROW),
        ("csv", ROW + ROW[:20]),
        ("csv", ROW + b"end,1"),
    ],
)
async def test_an_export_that_broke_off_leaves_no_file(tmp_path: Path, form: str, body: bytes) -> None:
    with pytest.raises(Failed, match="broken off") as raised:
        await export(body, tmp_path / "trail", form)
    assert raised.value.code is Exit.UNAVAILABLE
    assert list(tmp_path.iterdir()) == []
