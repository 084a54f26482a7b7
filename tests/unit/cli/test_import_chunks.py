"""How an export is cut into requests."""

from __future__ import annotations

import hashlib
import io
import json

import pytest

from annals_cli.commands.store import _checked, _chunks
from annals_cli.lines import lines
from annals_cli.sidecar import Failed

HEADER = b'{"format":"annals-export/1","lanes":{"0":600,"1":1}}\n'


def commit(lane: int, seq: int) -> bytes:
    return json.dumps({"lane": lane, "seq": seq, "commit": "{}"}, separators=(",", ":")).encode() + b"\n"


def test_the_first_request_has_the_first_commit_of_every_lane_and_the_others_are_bounded() -> None:
    subject = b'{"subject":"ada","tenant":"t","key":"{}"}\n'
    firsts = [HEADER, subject, commit(0, 1), commit(1, 1)]
    rest = [subject, b'{"checkpoint":"{}"}\n'] + [commit(0, seq) for seq in range(2, 601)]
    source = io.BytesIO(b"".join(firsts + rest) + b'{"end":{}}\n')
    chunks = list(_chunks(source))
    assert chunks[0][:4] == firsts
    assert [line for chunk in chunks for line in chunk] == firsts + rest
    assert max(map(len, chunks)) <= 256


def test_lines_come_whole_however_they_arrive() -> None:
    text = "a\u2028b\nc\n\nhalf a li".encode()
    for size in (1, 3, 100):
        pieces = (text[i : i + size] for i in range(0, len(text), size))
        assert list(lines(pieces)) == [b"a\xe2\x80\xa8b\n", b"c\n", b"\n"]


def test_a_file_that_was_cut_off_or_altered_is_refused() -> None:
    lines = HEADER + commit(0, 1)
    end = (
        json.dumps({"end": {"commits": 1, "events": 1, "sha256": hashlib.sha256(lines).hexdigest()}}).encode()
        + b"\n"
    )
    first = b'{"read_models": []}\n'
    for whole in (first + lines + end, first + lines + end.rstrip()):
        assert _checked(io.BytesIO(whole))[1]["sha256"]
    for wrong, message in (
        (first + lines, "cut off"),
        (first + lines + end[:9], "cut off"),
        (first + lines.replace(b"600", b"601") + end, "altered"),
        (lines + end, "not written by annals export"),
    ):
        with pytest.raises(Failed, match=message):
            _checked(io.BytesIO(wrong))
