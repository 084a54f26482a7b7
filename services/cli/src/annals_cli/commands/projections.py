"""The `projections` commands: the lag of the read models, and rebuilding them."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from annals_cli.output import notes, say_waiting
from annals_cli.session import Session, session
from annals_cli.sidecar import Exit, Failed, segment

app = typer.Typer(help="Read models: lag, rebuild, compare, switch.", no_args_is_help=True)
Model = Annotated[str, typer.Argument(help="a read model, such as tasks")]
Number = Annotated[int, typer.Argument(help="a generation")]
Reason = Annotated[str | None, typer.Option(help="why; kept in the audit trail")]
_LOOK_SECONDS = 0.3  # between two looks at a generation
_SILENCE_SECONDS = 300.0
"""How long to wait while the projector does not answer; a roll-out takes less."""


@app.command("list")
def listing(context: typer.Context) -> None:
    """List the read models, their generations, and how far they are behind."""
    given = session(context)
    answer = given.sidecar.get("projector", "projections")
    rows = [
        {
            "name": model["name"],
            "generation": one["number"],
            "version": one["version"],
            "status": one["status"],
            "progress": _progress(one),
            "parked": model["parked"],
            "reason": one["reason"],
        }
        for model in answer["items"]
        for one in model["generations"]
    ]
    given.output.table(
        answer, rows, ("name", "generation", "version", "status", "progress", "parked", "reason")
    )
    if not given.output.as_json:
        notes.print(f"lag: {answer['lag']} commits")


@app.command()
def lag(context: typer.Context) -> None:
    """Show how far the read models are behind the store, lane by lane."""
    given = session(context)
    answer = given.sidecar.get("projector", "projections")
    rows = [one | {"lag": one["tail"] - one["seq"]} for one in answer["positions"]]
    shown = {"lag": answer["lag"], "positions": rows}
    given.output.table(shown, rows, ("lane", "seq", "tail", "lag"), empty="no lane was written yet")


@app.command()
def rebuild(
    context: typer.Context,
    read_model: Model,
    reason: Annotated[str, typer.Option(help="kept with the generation")] = "asked for",
    throttle: Annotated[int | None, typer.Option(min=1, help="events a second at most")] = None,
    wait: Annotated[bool, typer.Option(help="show the progress until it has caught up")] = True,
    switch: Annotated[bool, typer.Option(help="switch to it once it has caught up")] = False,
) -> None:
    """Build a new generation from the store, beside the one that answers queries."""
    given = session(context)
    body = {"reason": reason} | ({"throttle": throttle} if throttle else {})
    path = f"projections/{segment(read_model)}/rebuild"
    answer = given.sidecar.call("POST", "projector", path, body=body)
    number = answer["number"]
    compare, switch_to = (
        given.line("projections", name, read_model, str(number)) for name in ("difference", "switch")
    )
    try:
        live = (wait or switch) and _wait(given, read_model, number)
        if switch:
            path = f"{_generation(read_model, number)}/switch"
            given.sidecar.call("POST", "projector", path, body={"reason": reason})
    except (Failed, KeyboardInterrupt):
        notes.print(
            f"{given.line('projections', 'list')} shows what becomes of generation {number} of {read_model}; "
            f"to switch to it: {switch_to}",
            soft_wrap=True,
        )
        raise
    if switch or live:
        given.output.done(answer, (f"generation {number} of {read_model} answers queries now", "green"))
        return
    done = f"generation {number} of {read_model} {'has caught up' if wait else 'is building'}"
    given.output.done(answer, f"{done}; compare it: {compare}; switch to it: {switch_to}")


@app.command()
def difference(context: typer.Context, read_model: Model, number: Number) -> None:
    """Show what differs between a generation and the live one. Exit code 6 if anything does or is parked."""
    given = session(context)
    path = f"{_generation(read_model, number)}/difference"
    answer = given.sidecar.call("GET", "projector", path, seconds=600)
    given.output.one(answer)
    if any(answer.get(what) for what in ("only_old", "only_new", "differing", "parked")):
        raise typer.Exit(Exit.FOUND_WRONG)


@app.command()
def switch(context: typer.Context, read_model: Model, number: Number, reason: Reason = None) -> None:
    """Have a generation answer queries; to go back, switch to the one before."""
    done = f"generation {number} of {read_model} answers queries now"
    _operate(context, "POST", read_model, number, "/switch", done, {"reason": reason})


@app.command()
def retire(context: typer.Context, read_model: Model, number: Number, reason: Reason = None) -> None:
    """Retire a read model, before a release that does not have it."""
    done = f"generation {number} is retired"
    _operate(context, "POST", read_model, number, "/retire", done, {"reason": reason})


@app.command()
def pause(context: typer.Context, read_model: Model, number: Number, reason: Reason = None) -> None:
    """Pause the building of a generation."""
    _operate(context, "POST", read_model, number, "/pause", "paused", {"reason": reason})


@app.command()
def resume(context: typer.Context, read_model: Model, number: Number, reason: Reason = None) -> None:
    """Resume the building of a generation."""
    _operate(context, "POST", read_model, number, "/resume", "building", {"reason": reason})


@app.command()
def throttle(
    context: typer.Context,
    read_model: Model,
    number: Number,
    events: Annotated[
        int | None, typer.Argument(min=1, help="a second at most; none: as fast as it goes")
    ] = None,
) -> None:
    """Change how fast a generation is built."""
    body = {"throttle": events}
    _operate(context, "PUT", read_model, number, "/throttle", f"{events or 'no limit'}", body)


@app.command()
def drop(context: typer.Context, read_model: Model, number: Number, reason: Reason = None) -> None:
    """Cancel the building of a generation, or remove one that no longer answers queries."""
    _operate(context, "DELETE", read_model, number, "", f"generation {number} is dropped", {"reason": reason})


def _operate(
    context: typer.Context, method: str, read_model: str, number: int, what: str, text: str, body: Any
) -> None:
    given = session(context)
    path = f"{_generation(read_model, number)}{what}"
    given.output.done(given.sidecar.call(method, "projector", path, body=body), text)


def _generation(read_model: str, number: int) -> str:
    return f"projections/{segment(read_model)}/generations/{number}"


def _progress(one: dict[str, Any]) -> str | None:
    commits = one["commits"]
    if commits is None:
        return None
    return f"{commits['done']} of {commits['total']}" + (", caught up" if one["caught_up"] else "")


def _wait(given: Session, read_model: str, number: int) -> bool:
    """Wait until a generation has caught up; return whether it is live by then. Raises Failed."""
    path = _generation(read_model, number)
    heard, silent = time.monotonic(), False
    with given.output.progress(transient=False) as progress:
        bar = progress.add_task(f"{read_model} {number}", total=None)
        while True:
            try:
                one = given.sidecar.get("projector", path)
            except Failed as failed:
                if failed.code is not Exit.UNAVAILABLE or time.monotonic() - heard > _SILENCE_SECONDS:
                    raise
                if not silent:
                    say_waiting(failed)
                silent = True
            else:
                heard, silent = time.monotonic(), False
                commits = one["commits"] or {"done": None, "total": None}
                progress.update(bar, completed=commits["done"], total=commits["total"])
                live: bool = one["status"] == "live"
                if one["caught_up"] or live:
                    return live
                if one["status"] not in ("building", "paused"):
                    raise Failed(f"generation {number} is {one['status']}", Exit.REFUSED)
            time.sleep(_LOOK_SECONDS)
