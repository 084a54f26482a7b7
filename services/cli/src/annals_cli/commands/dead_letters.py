"""The `dead-letters` commands: inspect, edit, replay and discard what the services gave up."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated, Any

import typer

from annals_cli.given import json_of
from annals_cli.output import notes, told
from annals_cli.session import Session, session
from annals_cli.sidecar import Exit, Failed, Sidecar, segment

app = typer.Typer(help="What could not be handled: inspect, edit, replay, discard.", no_args_is_help=True)


_TENANTS_SHOWN = 5


class Service(StrEnum):
    """The services that keep dead letters."""

    PROJECTOR = "projector"
    SAGA_ORCHESTRATOR = "saga-orchestrator"
    NOTIFICATION = "notification"
    COMMAND = "command"


Id = Annotated[str, typer.Argument(help="a dead letter's id")]
Whose = Annotated[Service, typer.Option("--service", help="whose dead letters")]
SeenVersion = Annotated[
    int | None,
    typer.Option("--version", min=1, help="do it only if this is still the version that waits first"),
]
Why = Annotated[str, typer.Option("--reason", help="why; kept in its history")]


@app.command("list")
def listing(context: typer.Context, service: Whose = Service.PROJECTOR) -> None:
    """List the dead letters, oldest first."""
    given = session(context)
    answer = given.sidecar.get(service, "dead-letters")
    columns = (
        "id",
        "consumer",
        "stream",
        "version",
        "event_type",
        "attempts",
        "status",
        "parked_at",
        "reason",
    )
    given.output.table(answer, answer["items"], columns, empty=f"nothing is parked in {service.value}")
    _tell_of_others(given, "list", service, len(answer["items"]))


@app.command()
def groups(context: typer.Context, service: Whose = Service.PROJECTOR) -> None:
    """List the groups of dead letters that failed in the same way."""
    given = session(context)
    answer = given.sidecar.get(service, "dead-letters/groups")
    given.output.table(answer, answer["items"], ("group", "count", "consumers", "first", "last"))
    _tell_of_others(given, "groups", service, sum(one["count"] for one in answer["items"]))


@app.command()
def show(context: typer.Context, letter: Id, service: Whose = Service.PROJECTOR) -> None:
    """Show one dead letter: its reason, its stack trace, the events that wait behind it, its history."""
    given = session(context)
    given.output.one(given.sidecar.get(service, f"dead-letters/{segment(letter)}"))


@app.command("dry-run")
def dry_run(context: typer.Context, letter: Id, service: Whose = Service.PROJECTOR) -> None:
    """Show what a replay would result in. Changes nothing."""
    given = session(context)
    given.output.one(given.sidecar.call("POST", service, f"dead-letters/{segment(letter)}/dry-run"))


@app.command()
def replay(
    context: typer.Context,
    reason: Why,
    letter: Annotated[str | None, typer.Argument(help="a dead letter's id")] = None,
    group: Annotated[str | None, typer.Option(help="all that failed alike, instead of one")] = None,
    service: Whose = Service.PROJECTOR,
) -> None:
    """Handle a dead letter again, then the events that wait behind it, in order."""
    given = session(context)
    match letter, group:
        case str(), None:
            path, body = f"dead-letters/{segment(letter)}/replay", {"reason": reason}
        case None, str():
            path, body = "dead-letters/groups/replay", {"reason": reason, "group": group}
        case _:
            raise Failed("name a dead letter, or a --group", Exit.USAGE)
    answer = given.sidecar.call("POST", service, path, body=body)
    given.output.done(answer, f"{answer['released']} released")


@app.command()
def edit(
    context: typer.Context,
    letter: Id,
    reason: Why,
    data: Annotated[
        str | None, typer.Option(help="the event's data as the consumer is to see it, JSON")
    ] = None,
    raw: Annotated[str | None, typer.Option(help="the text of what could not be read")] = None,
    version: SeenVersion = None,
    service: Whose = Service.PROJECTOR,
) -> None:
    """Change the data that the consumer sees. The event itself stays as it is."""
    given = session(context)
    body = _as_seen(reason, version)
    if data is not None:
        body["data"] = json_of(data)
    if raw is not None:
        body["raw"] = raw
    answer = given.sidecar.call("PUT", service, f"dead-letters/{segment(letter)}/data", body=body)
    try_it = given.line("dead-letters", "dry-run", letter, "--service", service.value)
    given.output.done(answer, f"edited; try it: {try_it}")


@app.command()
def discard(
    context: typer.Context,
    letter: Id,
    reason: Why,
    version: SeenVersion = None,
    service: Whose = Service.PROJECTOR,
) -> None:
    """Skip the event that failed; the events that wait behind it go on."""
    given = session(context)
    path = f"dead-letters/{segment(letter)}/discard"
    answer = given.sidecar.call("POST", service, path, body=_as_seen(reason, version))
    given.output.done(answer, "discarded")


def parked_of_all(sidecar: Sidecar, service: str) -> tuple[dict[str, int], str]:
    """Return how many dead letters each tenant has in a service, most first, and the first five in words."""
    try:
        items = sidecar.get(service, "dead-letters/groups/tenants")["items"]
        parked = {one["tenant"]: one["parked"] for one in items}
    except Failed as failed:
        if failed.code is not Exit.NOT_FOUND:
            raise
        # During an upgrade, a service of the previous release can only list those of the caller's tenant.
        parked = dict(Counter(one["tenant"] for one in sidecar.get(service, "dead-letters")["items"]))
    words = [f"{count} of {tenant}" for tenant, count in list(parked.items())[:_TENANTS_SHOWN]]
    return parked, ", ".join(words + ["…"] * (len(parked) > _TENANTS_SHOWN))


def _tell_of_others(given: Session, command: str, service: Service, shown: int) -> None:
    """Tell people that other tenants have dead letters, too; programs ask for each tenant."""
    if given.output.as_json:
        return
    parked, words = parked_of_all(given.sidecar, service)
    if (total := sum(parked.values())) > shown:
        see = given.line("dead-letters", command, "--service", service.value, tenant="TENANT")
        text = f"{total} are parked for all tenants: {words}; see them: {see}"
        notes.print(told(text), soft_wrap=True)


def _as_seen(reason: str, version: int | None) -> dict[str, Any]:
    return {"reason": reason} | ({} if version is None else {"version": version})
