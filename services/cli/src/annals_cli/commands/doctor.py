"""The `doctor` command: checks the whole set-up, and says how to fix what is wrong."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import typer

from annals_cli.commands.config import as_given
from annals_cli.commands.dead_letters import parked_of_all
from annals_cli.output import people, told
from annals_cli.session import session
from annals_cli.sidecar import Exit, Failed, Sidecar, SidecarNotReady, SidecarRefused

_APPS = ("command", "projector", "saga-orchestrator", "notification")
_MUCH_BACKLOG = 1_000
_PAGE = 500
_SAGAS_SHOWN = 5
_Line = Callable[..., str]
"""Returns the command line of a further call, see `Session.line`."""
_LET_IN = (
    "Pass the sidecar's token (DAPR_API_TOKEN), or use a sidecar whose app may call this (--sidecar URL)."
)


@dataclass(frozen=True, slots=True)
class Checked:
    """The result of a check; `mend` says how to fix what is wrong."""

    check: str
    ok: bool
    detail: str
    mend: str = ""


def register(app: typer.Typer) -> None:
    """Add the command of this module."""
    app.command()(doctor)


def doctor(context: typer.Context) -> None:
    """Check the whole set-up and say how to fix what is wrong. Exit code 6 if anything is."""
    given = session(context)
    results: list[Checked] = []
    for check in _checks(given.line):
        one = check(given.sidecar)
        results.append(one)
        if not given.output.as_json:
            mark = ("ok   ", "green") if one.ok else ("wrong", "red")
            people.print(told(mark, f" {one.check}: {one.detail}"), soft_wrap=True)
            if not one.ok:
                people.print(told((f"      {one.mend}", "yellow")), soft_wrap=True)
        if not one.ok and check is _sidecar:
            break
    wrong = [one for one in results if not one.ok]
    if given.output.as_json:
        given.output.one({"ok": not wrong, "checks": [asdict(one) for one in results]})
    if wrong:
        raise typer.Exit(Exit.FOUND_WRONG)


def _checks(line: _Line) -> list[Callable[[Sidecar], Checked]]:
    return [
        _sidecar,
        *map(_service, _APPS),
        *(_settings(app, line) for app in _APPS),
        _lanes,
        _backlog,
        _lag(line),
        *(_letters(app, line) for app in _APPS),
        _sagas(line),
        _signed(line),
    ]


def _sidecar(sidecar: Sidecar) -> Checked:
    name = "sidecar"
    try:
        sidecar.healthy()
    except SidecarRefused as refused:
        return Checked(name, False, str(refused), _LET_IN)
    except SidecarNotReady as failed:
        return Checked(name, False, str(failed), "Wait a moment, or see its log: make logs APP=command-dapr")
    except Failed as failed:
        return Checked(name, False, str(failed), "Start the suite (make start), or pass --sidecar URL.")
    return Checked(name, True, sidecar.url)


def _asked(name: str, mend: str, ask: Callable[[Sidecar], tuple[bool, str]]) -> Callable[[Sidecar], Checked]:
    def check(sidecar: Sidecar) -> Checked:
        try:
            ok, detail = ask(sidecar)
        except SidecarRefused as refused:
            return Checked(name, False, str(refused), _LET_IN)
        except Failed as failed:
            return Checked(name, False, str(failed), mend)
        return Checked(name, ok, detail, mend)

    return check


def _service(app: str) -> Callable[[Sidecar], Checked]:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        try:
            sidecar.get(app, "readyz")
        except Failed as failed:
            missing = (failed.problem or {}).get("missing")
            if not isinstance(missing, dict):
                raise
            return False, "; ".join(f"{what}: {why}" for what, why in missing.items())
        return True, "ready"

    mend = f"See what its log says (make logs APP={app}), and its sidecar's (make logs APP={app}-dapr)."
    return _asked(app, mend, ask)


def _settings(app: str, line: _Line) -> Callable[[Sidecar], Checked]:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        answer = sidecar.get(app, "settings")
        if answer["unreached"]:
            return False, f"they cannot be read: {answer['unreached']}"
        refused = [f"{one['key']}: {one['refused']}" for one in answer["items"] if one["refused"]]
        changed = [f"{one['key']} = {as_given(one['value'])}" for one in answer["items"] if one["set"]]
        return not refused, "; ".join(refused or changed) or "none is set"

    shows = line("config", "list")
    mend = f"{app} keeps what it had; {shows} shows it. Does the component settings exist?"
    return _asked(f"live settings of {app}", mend, ask)


def _lanes_of(sidecar: Sidecar) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = sidecar.get("command", "store/lanes")["items"]
    return found


def _lanes(sidecar: Sidecar) -> Checked:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        owned = [lane["lane"] for lane in _lanes_of(sidecar) if lane["owner"]]
        return bool(owned), f"{len(owned)} are written now" if owned else "no service writes one"

    return _asked("lanes", "The command service takes one when it can reach its state store.", ask)(sidecar)


def _backlog(sidecar: Sidecar) -> Checked:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        waiting = sum(lane["backlog"] for lane in _lanes_of(sidecar))
        return waiting < _MUCH_BACKLOG, f"{waiting} commits wait for the broker"

    return _asked("backlog", "Is the broker up? Nothing is lost: commits are published later.", ask)(sidecar)


def _lag(line: _Line) -> Callable[[Sidecar], Checked]:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        behind = sidecar.get("projector", "projections")["lag"]
        return behind < _MUCH_BACKLOG, f"the read models are {behind} commits behind"

    mend = f"{line('projections', 'lag')} shows where; the projector's log says why."
    return _asked("projections", mend, ask)


def _letters(app: str, line: _Line) -> Callable[[Sidecar], Checked]:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        parked, words = parked_of_all(sidecar, app)
        return not parked, f"{sum(parked.values())} parked: {words}" if parked else "none"

    mend = f"See {line('dead-letters', 'list', '--service', app, tenant='TENANT')}."
    return _asked(f"dead letters of {app}", mend, ask)


def _sagas(line: _Line) -> Callable[[Sidecar], Checked]:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        tenant = sidecar.headers["x-tenant-id"]
        # A saga that was terminated is failed for good, also with nothing left to compensate.
        left = [saga["id"] for saga in _failed_sagas(sidecar) if saga["remaining"]]
        if not left:
            return True, f"none of tenant {tenant} has steps left to compensate"
        shown = ", ".join(left[:_SAGAS_SHOWN] + ["…"] * (len(left) > _SAGAS_SHOWN))
        return False, f"{len(left)} of tenant {tenant} failed with steps left to compensate: {shown}"

    mend = (
        f"See why: {line('sagas', 'show', 'ID')}. "
        f"Then compensate the steps that are left: {line('sagas', 'retry', 'ID')}."
    )
    return _asked("sagas", mend, ask)


def _failed_sagas(sidecar: Sidecar) -> Iterator[dict[str, Any]]:
    cursor = None
    while True:
        page = sidecar.get("saga-orchestrator", "sagas", status="failed", limit=_PAGE, cursor=cursor)
        yield from page["items"]
        if (cursor := page.get("next")) is None:
            return


def _signed(line: _Line) -> Callable[[Sidecar], Checked]:
    def ask(sidecar: Sidecar) -> tuple[bool, str]:
        status = sidecar.get("projector", "audit/checkpoints")
        unsigned = sum(max(0, lane["tail"] - lane["signed"]) for lane in status["items"])
        late = [lane["lane"] for lane in status["items"] if lane["late"]]
        return not late, f"{unsigned} commits wait to be signed"

    hint = (
        "Commits are signed within five minutes: can the command service read its signing key? "
        "A commit that is missing keeps those behind it from being signed: "
        f"{line('audit', 'verify')} names it."
    )
    return _asked("audit trail", hint, ask)
