"""The tour in the README and the lines of docs/http.md, run as printed."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from conftest import until
from suite.paths import ROOT
from suite.suite import Suite

pytestmark = pytest.mark.timeout(120)

_BLOCK = re.compile(r"```sh\n(?P<lines>.*?)```(?:\n\n```json\n(?P<answers>.*?)```)?", re.DOTALL)
_FIRST = "0-1"
"""The README's position, which is that of an empty suite."""


def blocks(page: str, heading: str) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the shell blocks below a heading of a page, each with the answers that the page shows."""
    text = (ROOT / page).read_text()
    section = re.split(r"^## ", text.split(f"\n## {heading}\n")[1], maxsplit=1, flags=re.MULTILINE)[0]
    return [
        (
            block["lines"],
            [json.loads(line.replace(", …", "")) for line in (block["answers"] or "").splitlines()],
        )
        for block in _BLOCK.finditer(section)
    ]


async def answered(lines: str) -> list[dict[str, Any]]:
    """Run lines in a shell, as a reader would paste them, and return their answers in order."""
    shell = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", lines),
        stdout=asyncio.subprocess.PIPE,
    )
    out = (await shell.communicate())[0].decode()
    assert shell.returncode == 0, lines
    found, decoder = [], json.JSONDecoder()
    while out := out.lstrip():
        answer, end = decoder.raw_decode(out)
        found.append(answer)
        out = out[end:]
    return found


async def test_the_tour_of_the_readme_answers_as_it_says(embedded: Suite) -> None:
    tour = blocks("README.md", "What you see")
    position = _FIRST
    for lines, wanted in (block for block in tour if block[1]):
        answers = await answered(lines.replace(_FIRST, position))
        for answer, said in zip(answers, wanted, strict=True):
            position = answer.pop("position", position)
            said.pop("position", None)
            assert answer | said == answer
    history, handover, watching = (lines for lines, wanted in tour if not wanted)

    events, state = await answered(history)
    assert [event["event_type"] for event in events["items"]] == ["task.created", "task.completed"]
    assert (state["status"], state["version"]) == ("todo", 1)

    asked, ended = handover.split("sleep 2; ")
    await answered(asked)
    where = "".join(line for line in asked.splitlines(keepends=True) if not line.startswith("curl"))

    async def taken_back() -> bool:
        return {saga.get("status") for saga in await answered(where + ended)} == {"compensated"}

    await until(taken_back)
    [inbox] = [line for line in watching.splitlines() if "/inbox/" in line]

    async def asked_her() -> bool:
        [notices] = await answered(inbox)
        return any("slides" in json.dumps(notice) for notice in notices["items"])

    await until(asked_her)
    await alive(next(line for line in watching.splitlines() if line != inbox))


async def alive(line: str) -> None:
    """Wait for the first message of a live stream."""
    stream = await asyncio.create_subprocess_exec(
        "bash", "-c", f"exec {line}", stdout=asyncio.subprocess.PIPE
    )
    assert stream.stdout
    try:
        await stream.stdout.readuntil(b"event: alive")
    finally:
        stream.terminate()
        await stream.wait()


async def test_the_lines_on_notifications_set_up_what_they_say(embedded: Suite) -> None:
    [(lines, _)] = blocks("docs/http.md", "Notifications, reminders and recurrences")
    *_, recurrence = await answered(lines)
    assert (recurrence["id"], recurrence["rule"]) == ("stand-up", "FREQ=WEEKLY;BYDAY=MO")
    assert recurrence["last_error"] is None
