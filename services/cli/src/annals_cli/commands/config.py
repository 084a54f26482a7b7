"""The `config` commands: live settings, which services apply while they run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from annals_cli.output import notes, told
from annals_cli.session import Session, session
from annals_cli.sidecar import Exit, Failed, segment

app = typer.Typer(help="Settings that change without a restart.", no_args_is_help=True)

_SERVICES = ("command", "projector", "saga-orchestrator", "notification")

Key = Annotated[str, typer.Argument(help="such as command.read_only")]
Why = Annotated[str, typer.Option("--reason", help="why; kept in its history")]


@app.command("list")
def listing(context: typer.Context) -> None:
    """List all live settings, as they are now in the replica that answers."""
    given = session(context)
    answers: dict[str, Any] = {}
    away: list[Failed] = []
    for service in _SERVICES:
        try:
            answers[service] = given.sidecar.get(service, "settings")
        except Failed as failed:
            away.append(failed)
    if not answers:
        raise away[0]
    rows = [
        {**one, "value": as_given(one["value"]), "default": as_given(one["default"])}
        for answer in answers.values()
        for one in answer["items"]
    ]
    given.output.table(answers, rows, ("key", "value", "default", "by", "why", "at", "refused"))
    for one in away:
        notes.print(told(("not shown:", "yellow"), f" {one}"), soft_wrap=True)
    if away:
        raise typer.Exit(away[0].code)


@app.command("set")
def set_(context: typer.Context, key: Key, value: str, reason: Why) -> None:
    """Set a live setting, for all replicas of its service."""
    given = session(context)
    answer = _change(given, key, {"value": value, "reason": reason})
    given.output.done(answer, f"{answer['key']} is set, version {answer['version']}")


@app.command()
def unset(context: typer.Context, key: Key, reason: Why) -> None:
    """Unset a live setting: its default applies again."""
    given = session(context)
    answer = _change(given, key, {"value": None, "reason": reason})
    given.output.done(answer, f"{answer['key']} is back to its default, version {answer['version']}")


def _change(given: Session, key: str, body: dict[str, Any]) -> Any:
    prefix, _, name = key.partition(".")
    service = prefix.replace("_", "-")
    if service not in _SERVICES or not name:
        known = ", ".join(f"{one.replace('-', '_')}.…" for one in _SERVICES)
        message = f"{key} is not a live setting; keys begin with {known}; see annals config list"
        raise Failed(message, Exit.USAGE)
    return given.sidecar.call("PUT", service, f"settings/{segment(name)}", body=body)


def as_given(value: Any) -> Any:
    """Return a value as `annals config set` takes it."""
    return str(value).lower() if isinstance(value, bool) else value
