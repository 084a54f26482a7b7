"""The `stream` commands: a stream's events, and the state of its aggregate."""

from __future__ import annotations

from typing import Annotated

import typer

from annals_cli.session import session
from annals_cli.sidecar import segment

app = typer.Typer(help="A stream's history and state.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="such as task-42")]


@app.command()
def show(
    context: typer.Context,
    stream: Name,
    first: Annotated[int | None, typer.Option("--from", help="version")] = None,
    last: Annotated[int | None, typer.Option("--to", help="version")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 100,
    backwards: Annotated[bool, typer.Option(help="the newest first")] = False,
) -> None:
    """Show the events of a stream."""
    given = session(context)
    wanted = {"from": first, "to": last, "limit": limit, "backwards": "true" if backwards else None}
    answer = given.sidecar.get("projector", f"queries/streams/{segment(stream)}/events", **wanted)
    columns = ("version", "timestamp", "event_type", "user_id", "position", "data")
    given.output.table(answer, answer["items"], columns)
    if (following := answer.get("next")) is not None:
        given.output.more(f"the same with {'--to' if backwards else '--from'} {following}")


@app.command()
def state(
    context: typer.Context,
    stream: Name,
    version: Annotated[int | None, typer.Option(min=1, help="as it was at a version")] = None,
    time: Annotated[
        str | None, typer.Option(help="as it was at a time, such as 2026-01-31T12:00:00Z")
    ] = None,
) -> None:
    """Show the state of a stream's aggregate, now or at an earlier version or time."""
    given = session(context)
    path = f"queries/streams/{segment(stream)}/state"
    given.output.one(given.sidecar.get("projector", path, version=version, time=time))
