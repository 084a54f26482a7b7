"""The `command`, `query` and `tail` commands."""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from itertools import islice
from typing import Annotated, Any

import typer

from annals_cli import live
from annals_cli.given import NotJson, json_of
from annals_cli.pages import say_next
from annals_cli.session import session
from annals_cli.sidecar import Exit, Failed, header, segment


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(command)
    app.command()(query)
    app.command()(tail)


def command(
    context: typer.Context,
    type: Annotated[str, typer.Argument(help="such as task.create")],  # noqa: A002 - its name for people
    fields: Annotated[
        list[str] | None, typer.Argument(help="its data: name=value …, or one JSON object, or - for stdin")
    ] = None,
    key: Annotated[str | None, typer.Option(help="idempotency key: sent again, it takes effect once")] = None,
    expect: Annotated[int | None, typer.Option(help="the version that the aggregate must be at")] = None,
) -> None:
    """Send a command.

    annals command task.create title="Write the report" priority=high
    """
    given = session(context)
    headers = header("idempotency-key", "--key", key)
    if expect is not None:
        headers["if-match"] = f'"{expect}"'
    answer = given.sidecar.call(
        "POST", "command", f"commands/{segment(type)}", body=_data(fields or []), headers=headers
    )
    where = f"{answer['stream']}  version {answer['version']}  position {answer['position']}"
    given.output.done(answer, ("done", "green"), f"  {where}")


def query(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="such as tasks, tasks/ID or events")],
    parameters: Annotated[list[str] | None, typer.Argument(help="name=value …")] = None,
) -> None:
    """Query the read models.

    annals query tasks status=todo limit=5
    """
    given = session(context)
    if "?" in path or "#" in path:
        raise Failed(f"{path!r} is no path alone; its parameters stand behind it: name=value …", Exit.USAGE)
    where = "/".join(map(segment, path.split("/")))
    pairs = list(map(_pair, parameters or []))
    wanted: dict[str, list[str]] = defaultdict(list)
    for name, value in pairs:
        wanted[name].append(value)
    answer = given.sidecar.call("GET", "projector", f"queries/{where}", params=wanted)
    if isinstance(answer, dict) and isinstance(answer.get("items"), list):
        rows = answer["items"]
        columns = [name for name in (rows[0] if rows else {}) if not isinstance(rows[0][name], dict)][:8]
        given.output.table(answer, rows, columns)
        say_next(given, path, pairs, answer)
    else:
        given.output.one(answer)


def tail(
    context: typer.Context,
    type: Annotated[list[str] | None, typer.Option(help="only events of this type; may be repeated")] = None,  # noqa: A002
    stream: Annotated[str | None, typer.Option(help="only this stream")] = None,
    after: Annotated[
        str | None, typer.Option(help="from where on: the id of an event, as tail --json shows it")
    ] = None,
    count: Annotated[int | None, typer.Option("-n", "--count", min=1, help="end after so many")] = None,
) -> None:
    """Show events as they happen, until Ctrl-C."""
    given = session(context)
    for place, event in islice(live.events(given.sidecar, after, type=type, stream=stream), count):
        name = f"{event.get('aggregate_type')}-{event.get('aggregate_id')}"
        data = json.dumps(event.get("data", {}), ensure_ascii=False)
        when, kind = str(event.get("timestamp")), str(event.get("event_type"))
        given.output.line(event | {"id": place}, (when, "dim"), "  ", (kind, "bold"), f"  {name}  {data}")


def _data(fields: list[str]) -> dict[str, Any]:
    if fields == ["-"]:
        return _object(sys.stdin.buffer.read().decode(errors="surrogateescape"))
    if len(fields) == 1 and fields[0].lstrip().startswith("{"):
        return _object(fields[0])
    return {name: _value(text) for name, text in map(_pair, fields)}


def _object(text: str) -> dict[str, Any]:
    value = json_of(text)
    if not isinstance(value, dict):
        raise Failed("the data is not a JSON object", Exit.USAGE)
    return value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        raise Failed(f"expected name=value, not {text!r}", Exit.USAGE)
    return name, value


def _value(text: str) -> Any:
    """Parse a text that is JSON, such as 3, true or ["a"]; return any other text itself."""
    try:
        return json_of(text)
    except NotJson:
        return text
