"""The `annals` command line against a running suite, as people and programs use it."""

from __future__ import annotations

import asyncio
import csv
import json
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from conftest import until
from suite.paths import BIN
from suite.suite import Suite
from system.conftest import Client


@dataclass(frozen=True, slots=True)
class Ran:
    """The result of a run of the program."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output for programs, parsed."""
        return json.loads(self.out)


async def annals(*arguments: str, code: int | None = 0, stdin: str | None = None) -> Ran:
    """Run the program; unless `code` is None, it must end with this exit code."""
    process = await asyncio.create_subprocess_exec(
        str(BIN / "annals"),
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={"COLUMNS": "200", "PATH": ""},
    )
    out, err = await process.communicate(stdin.encode() if stdin is not None else None)
    ran = Ran(process.returncode or 0, out.decode(), err.decode())
    assert code is None or ran.code == code, ran
    return ran


async def member() -> str:
    name = f"m-{uuid.uuid4()}"
    await annals("command", "member.register", f"id={name}", "name=Ada Lovelace", "capacity=2")
    return name


async def test_commands_and_queries_for_people_and_programs(embedded: Suite, client: Client) -> None:
    key = str(uuid.uuid4())
    sent = ("command", "task.create", "title=Write the report", "priority=high", "--key", key, "--json")
    first, again = (await annals(*sent)).json, (await annals(*sent)).json
    assert first == again, "with its key it takes effect once"
    await client.shown(f"tasks/{first['id']}", first["position"])
    shown = await annals("query", f"tasks/{first['id']}", f"position={first['position']}")
    assert '"Write the report"' in shown.out
    listed = await annals("query", "tasks", "limit=500", "--json")
    assert first["id"] in {task["id"] for task in listed.json["items"]}
    given = json.dumps({"title": "From stdin"})
    assert (await annals("command", "task.create", "-", stdin=given)).out.startswith("done")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (("command", "task.create", "titel=x"), 2, "titel"),
        (("command", "task.create", "no pair"), 2, "name=value"),
        (("command", "nonsense.x", "a=1"), 3, "task.create"),
        (("query", "tasks/nope"), 3, "there is no task nope"),
        (("no-such-command",), 2, "No such command"),
        (("--sidecar", "http://127.0.0.1:9", "lanes"), 5, "make start"),
        (("import", "/dev/null"), 2, ""),
        (("dead-letters", "replay", "--reason", "x"), 2, "--group"),
        (("projections", "rebuild", "nothing"), 3, "no read model"),
    ],
)
async def test_what_goes_wrong_is_said_and_has_its_exit_code(
    embedded: Suite, arguments: tuple[str, ...], code: int, says: str
) -> None:
    ran = await annals(*arguments, code=code)
    assert says in ran.err
    assert "Traceback" not in ran.err


async def test_a_conflict_is_refused_and_told_to_programs_as_a_problem(embedded: Suite) -> None:
    name = await member()
    ran = await annals(
        "command", "member.set_capacity", f"id={name}", "capacity=1", "--expect", "9", "--json", code=4
    )
    assert ran.json["status"] == 409


async def test_a_stream_is_shown_at_any_version_and_tailed_live(embedded: Suite) -> None:
    name = await member()
    tailing = asyncio.create_task(annals("tail", "--stream", f"member-{name}", "-n", "1", "--json"))
    while not tailing.done():
        await annals("command", "member.set_capacity", f"id={name}", "capacity=7")
    event = json.loads((await tailing).out)
    assert (event["event_type"], event["data"]["capacity"]) == ("member.capacity_set", 7)
    events = (await annals("stream", "show", f"member-{name}", "--json")).json["items"]
    assert [one["version"] for one in events] == list(range(1, len(events) + 1))
    state = await annals("stream", "state", f"member-{name}", "--version", "1", "--json")
    assert (state.json["capacity"], state.json["name"]) == (2, "Ada Lovelace")


async def test_a_read_model_is_rebuilt_compared_switched_and_dropped(embedded: Suite) -> None:
    await member()
    number = str((await annals("projections", "rebuild", "members", "--json")).json["number"])

    async def generations() -> dict[str, dict[str, Any]]:
        listed = (await annals("projections", "list", "--json")).json["items"]
        found = next(one["generations"] for one in listed if one["name"] == "members")
        return {str(one["number"]): one for one in found}

    async def caught_up() -> bool:
        return bool((await generations())[number]["caught_up"])

    async def same() -> bool:
        found = (await annals("projections", "difference", "members", number, "--json")).json
        return (found["only_old"], found["only_new"], found["differing"]) == (0, 0, 0)

    await until(caught_up)
    await until(same, what="both to have the same rows")
    await annals("projections", "throttle", "members", number, "100")
    await annals("projections", "switch", "members", number, "--reason", "it has the same rows")
    known = await generations()
    assert known[number]["status"] == "live"
    retired = next(name for name, one in known.items() if one["status"] == "retired")
    await annals("projections", "drop", "members", retired, "--reason", "nobody needs it")
    assert "lag" in (await annals("projections", "lag", "--json")).json


async def test_sagas_are_started_found_and_ended(embedded: Suite) -> None:
    task = (await annals("command", "task.create", "title=Hand it over", "--json")).json["id"]
    name, saga = await member(), f"s-{uuid.uuid4()}"
    given = json.dumps({"task_id": task, "assignee": name})
    await annals("sagas", "start", "task-handover", given, "--id", saga)
    found = [one["id"] for one in (await annals("sagas", "list", "--limit", "500", "--json")).json["items"]]
    while saga not in found:
        found = [
            one["id"] for one in (await annals("sagas", "list", "--limit", "500", "--json")).json["items"]
        ]
    await annals("sagas", "cancel", saga, "--reason", "never mind")
    assert saga in (await annals("sagas", "show", saga)).out
    await annals("sagas", "show", "nope", code=3)


async def test_the_trail_and_the_store_are_exported_and_verified(
    embedded: Suite, client: Client, tmp_path: Path
) -> None:
    who = f"u-{uuid.uuid4()}"
    for _ in range(3):
        last = (await annals("--user", who, "command", "task.create", "title=x", "--json")).json
    await client.shown("tasks", last["position"], limit=1)
    assert len((await annals("audit", "search", "--user", who, "--json")).json["items"]) == 3
    table = tmp_path / "audit.csv"
    await annals("audit", "export", str(table), "--format", "csv", "--user", who)
    assert [row["user"] for row in csv.DictReader(table.open())] == [who] * 3 + ["3"]
    assert "as they were recorded" in (await annals("audit", "verify")).out
    backup = tmp_path / "backup.jsonl"
    await annals("export", str(backup), "--with-keys")
    lines = backup.read_text().splitlines()
    assert "end" in json.loads(lines[-1])
    assert {one["name"] for one in json.loads(lines[0])["read_models"]} == {"members", "sagas", "tasks"}
    refused = await annals("import", str(backup), code=4)
    assert "not empty" in refused.err
    assert not list(tmp_path.glob("*.partial"))


async def test_the_doctor_finds_a_whole_suite_well_and_an_absent_one_not(embedded: Suite) -> None:
    checks = {one["check"]: one for one in (await annals("doctor", "--json")).json["checks"]}
    assert {"sidecar", "command", "projector", "lanes", "audit trail"} <= checks.keys()
    gone = await annals("--sidecar", "http://127.0.0.1:9", "doctor", code=6)
    assert "make start" in gone.out


async def test_lanes_and_dead_letters_are_listed(embedded: Suite) -> None:
    await member()
    lanes = (await annals("lanes", "--json")).json["items"]
    assert any(lane["owner"] and lane["tail"] > 0 for lane in lanes)
    for service in ("projector", "saga-orchestrator", "notification", "command"):
        assert "items" in (await annals("dead-letters", "list", "--service", service, "--json")).json
    await annals("dead-letters", "groups")
    await annals("dead-letters", "show", "nope", code=3)
