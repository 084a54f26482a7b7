"""The `sagas` commands: list, show, start and control sagas."""

from __future__ import annotations

from typing import Annotated

import typer

from annals_cli.given import json_of
from annals_cli.pages import say_next
from annals_cli.session import session
from annals_cli.sidecar import segment

app = typer.Typer(help="Sagas: list, show, start, steer.", no_args_is_help=True)
_APP = "saga-orchestrator"
Id = Annotated[str, typer.Argument(help="a saga's id")]
Reason = Annotated[str | None, typer.Option(help="why; kept in its history")]


@app.command("list")
def listing(
    context: typer.Context,
    status: str | None = None,
    type: Annotated[str | None, typer.Option(help="the saga's type")] = None,  # noqa: A002
    business_key: str | None = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
) -> None:
    """List sagas, newest first."""
    given = session(context)
    wanted = {"status": status, "type": type, "business_key": business_key, "limit": limit}
    answer = given.sidecar.get(_APP, "sagas", **wanted)
    columns = ("id", "type", "business_key", "status", "created_at", "updated_at")
    given.output.table(answer, answer["items"], columns, empty="no sagas")
    say_next(given, "sagas", wanted.items(), answer)


@app.command()
def show(context: typer.Context, saga: Id) -> None:
    """Show one saga, with everything that happened to it."""
    given = session(context)
    answer = given.sidecar.get("projector", f"queries/sagas/{segment(saga)}")
    if given.output.as_json:
        given.output.one(answer)
        return
    head = {name: answer[name] for name in ("id", "type", "business_key", "status") if name in answer}
    given.output.one(head)
    steps = ("name", "status", "attempt", "error")
    given.output.table(answer, answer["steps"], steps)
    given.output.table(answer, answer["timeline"], ("time", "type", "step", "user"))


@app.command()
def start(
    context: typer.Context,
    type: Annotated[str, typer.Argument(help="the saga's type")],  # noqa: A002
    data: Annotated[str, typer.Argument(help="its input, a JSON object")],
    saga_id: Annotated[str | None, typer.Option("--id", help="its id; sent again, it starts once")] = None,
) -> None:
    """Start a saga."""
    given = session(context)
    path = f"sagas/{segment(type)}"
    answer = given.sidecar.call("POST", _APP, path, body=json_of(data), params={"id": saga_id})
    given.output.one(answer)


@app.command("raise")
def raise_event(
    context: typer.Context,
    saga: Id,
    event: Annotated[str, typer.Argument(help="the event that the saga waits for")],
    data: Annotated[str | None, typer.Argument(help="its data, JSON")] = None,
) -> None:
    """Raise an event that a saga waits for."""
    given = session(context)
    body = json_of(data) if data is not None else None
    answer = given.sidecar.call("POST", _APP, f"sagas/{segment(saga)}/events/{segment(event)}", body=body)
    given.output.done(answer, f"{event} was raised")


def _operation(name: str, help_text: str) -> None:
    def operate(context: typer.Context, saga: Id, reason: Reason = None) -> None:
        given = session(context)
        body = {"reason": reason} if reason is not None else None
        answer = given.sidecar.call("POST", _APP, f"sagas/{segment(saga)}/{name}", body=body)
        given.output.done(answer, f"{saga}: {name} requested; it is {answer['status']}")

    app.command(name, help=help_text)(operate)


_operation("cancel", "Cancel a saga: compensate its steps, one by one.")
_operation("suspend", "Suspend a saga.")
_operation("resume", "Let a suspended saga go on.")
_operation("restart", "Let a saga that is stuck go on from its history.")
_operation("retry", "Compensate the steps that are left, of a failed or terminated saga.")
_operation("terminate", "End a saga where it is, without compensation.")
