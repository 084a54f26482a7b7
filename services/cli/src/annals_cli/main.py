"""The `annals` program: its options, its commands, and how it reports failures."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from annals_cli.commands import (
    audit,
    basics,
    config,
    dead_letters,
    doctor,
    projections,
    sagas,
    store,
    streams,
)
from annals_cli.output import Output, notes, told
from annals_cli.session import Session
from annals_cli.sidecar import Failed, Sidecar, headers_of, http_address

app = typer.Typer(
    name="annals",
    help="Operate an Annals suite through a Dapr sidecar.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 error, 2 wrong use or malformed input, 3 not found, 4 refused, "
    "5 cannot be reached, 6 found something wrong.",
)


@app.callback()
def options(
    context: typer.Context,
    sidecar: Annotated[
        str, typer.Option(envvar=["ANNALS_SIDECAR", "DAPR_HTTP_ENDPOINT"], help="a sidecar's HTTP address")
    ] = "http://127.0.0.1:3501",
    tenant: Annotated[str, typer.Option(envvar="ANNALS_TENANT", help="tenant to act for")] = "default",
    user: Annotated[str | None, typer.Option(envvar="ANNALS_USER", help="user to act as")] = None,
    api_token: Annotated[
        str | None, typer.Option(envvar="DAPR_API_TOKEN", help="the sidecar's API token", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="answer in JSON, for programs")] = False,
) -> None:
    """Operate an Annals suite through a Dapr sidecar."""
    reached = Sidecar(http_address(sidecar), headers_of(tenant, user, api_token))
    context.obj = Session(reached, Output(as_json=as_json), _as_called(context))


def _as_called(context: typer.Context) -> dict[str, str]:
    """Return the options of the call. Options from variables are left out, as is the token."""
    sources = {name: context.get_parameter_source(name) for name in ("sidecar", "tenant", "user")}
    return {
        name: context.params[name]
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }


basics.register(app)
app.add_typer(streams.app, name="stream")
app.add_typer(projections.app, name="projections")
app.add_typer(dead_letters.app, name="dead-letters")
app.add_typer(sagas.app, name="sagas")
app.add_typer(audit.app, name="audit")
app.add_typer(config.app, name="config")
store.register(app)
doctor.register(app)


def _json_first(arguments: list[str]) -> list[str]:
    """Move `--json` to the front: it is an option of the whole program, but may stand anywhere."""
    rest = [one for one in arguments if one != "--json"]
    return rest if len(rest) == len(arguments) else ["--json", *rest]


def run() -> None:
    """Run the program, and exit with the code of its failure if it fails."""
    try:
        app(_json_first(sys.argv[1:]))
    except Failed as failed:
        if "--json" in sys.argv and failed.problem is not None:
            Output(as_json=True).one(failed.problem)
        notes.print(told(("annals:", "red"), f" {failed}"), soft_wrap=True)
        sys.exit(failed.code)


if __name__ == "__main__":
    run()
