"""The `audit` commands: search, export and verify the audit trail."""

from __future__ import annotations

import csv
import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import TaskID

from annals_cli.files import STDOUT, broken_off, written_whole
from annals_cli.lines import lines
from annals_cli.output import people, told
from annals_cli.pages import say_next
from annals_cli.session import session
from annals_cli.sidecar import Exit, Failed

app = typer.Typer(help="Who did what, and the proof that nothing was altered.", no_args_is_help=True)


class Format(StrEnum):
    """How an export is written."""

    JSONL = "jsonl"
    CSV = "csv"


User = Annotated[str | None, typer.Option(help="who did it")]
Type = Annotated[str | None, typer.Option(help="of the event")]
Stream = Annotated[str | None, typer.Option(help="such as task-42")]
Trace = Annotated[str | None, typer.Option(help="a trace's id")]
Client = Annotated[str | None, typer.Option(help="from where: an app, or an address")]
From = Annotated[str | None, typer.Option("--from", help="such as 2026-01-31T12:00:00Z")]
To = Annotated[str | None, typer.Option("--to", help="before this time")]


@app.command()
def search(
    context: typer.Context,
    user: User = None,
    type: Type = None,  # noqa: A002
    stream: Stream = None,
    trace: Trace = None,
    client: Client = None,
    first: From = None,
    last: To = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
) -> None:
    """Show who did what, when and from where, newest first."""
    given = session(context)
    wanted = _filters(user, type, stream, trace, client, first, last) | {"limit": limit}
    answer = given.sidecar.get("projector", "queries/audit", **wanted)
    columns = ("time", "user", "type", "stream", "version", "client", "trace_id")
    given.output.table(answer, answer["items"], columns, empty="no entry matches")
    say_next(given, "audit", wanted.items(), answer)


@app.command()
def export(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="where to; - for standard output")],
    format: Annotated[Format, typer.Option(help="JSON lines, or CSV")] = Format.JSONL,  # noqa: A002
    user: User = None,
    type: Type = None,  # noqa: A002
    stream: Stream = None,
    trace: Trace = None,
    client: Client = None,
    first: From = None,
    last: To = None,
) -> None:
    """Write the entries that match to a file, oldest first; its last line says that it is complete."""
    given = session(context)
    filters = _filters(user, type, stream, trace, client, first, last)
    line = b""
    with (
        given.sidecar.stream("projector", "queries/audit/export", **filters, format=format.value) as answer,
        written_whole(file) as out,
    ):
        for line in lines(answer.iter_bytes()):
            out.write(line)
        entries = _entries(line, format)
        if entries is None:
            raise broken_off(file)
    done = {"file": str(file), "entries": entries}
    given.output.done(done, f"{entries} entries in {file}", aside=file == STDOUT)


def _entries(last: bytes, format: Format) -> int | None:  # noqa: A002
    """Return how many entries an export has, from its last line; None if it ended early."""
    try:
        if format is Format.JSONL:
            return int(json.loads(last)["end"]["entries"])
        end, entries, *_ = next(csv.reader([last.decode()]))
    except (ValueError, KeyError, StopIteration):
        return None
    return int(entries) if end == "end" else None


@app.command()
def verify(context: typer.Context) -> None:
    """Verify every event, its hash chain and the signed checkpoints. Exit code 6 if anything is wrong."""
    given = session(context)
    result: dict[str, Any] | None = None
    with (
        given.sidecar.stream("projector", "audit/verification") as answer,
        given.output.progress("lane {task.description}") as progress,
    ):
        bars: dict[int, TaskID] = {}
        for line in lines(answer.iter_bytes()):
            said = json.loads(line)
            if one := said.get("progress"):
                if one["lane"] not in bars:
                    bars[one["lane"]] = progress.add_task(str(one["lane"]))
                progress.update(bars[one["lane"]], completed=one["seq"], total=one["of"])
            elif "error" in said:
                raise Failed(f"the verification was broken off: {said['error']}", Exit.UNAVAILABLE)
            result = said.get("result", result)
    if result is None:
        raise Failed("the verification was broken off", Exit.UNAVAILABLE)
    if given.output.as_json:
        given.output.one(result)
    else:
        _report(result)
    if not result["ok"]:
        raise typer.Exit(Exit.FOUND_WRONG)


def _report(result: dict[str, Any]) -> None:
    for lane, reached in result["lanes"].items():
        people.print(told(f"lane {lane}: verified to {reached['seq']}, signed to {reached['signed']}"))
    for one in result["findings"]:
        where = f"{one['stream']} version {one['version']} (event {one['event_id']}, tenant {one['tenant']})"
        place = where if one["stream"] else f"lane {one['lane']} after {one['seq']}"
        people.print(told(("wrong", "red"), f"  {place}: {one['reason']}"))
    if result["ok"]:
        people.print(told((f"{result['events']} events are as they were recorded", "green")))


def _filters(
    user: str | None,
    type: str | None,  # noqa: A002
    stream: str | None,
    trace: str | None,
    client: str | None,
    first: str | None,
    last: str | None,
) -> dict[str, Any]:
    return {
        "user": user,
        "type": type,
        "stream": stream,
        "trace_id": trace,
        "client": client,
        "from": first,
        "to": last,
    }
