"""Runs, shows and stops the suite, for the Makefile: `python -m suite run|start|status|stop|logs|…`."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from suite import infra, packages, page, profiles, runtime, supervisor
from suite.paths import ROOT, state_dir
from suite.profiles import DEFAULT_PROFILE, DEFAULT_STORE, Choice, Unknown
from suite.progress import step

_ACTIONS = ("run", "start", "status", "stop", "logs", "setup", "install", "supervise", "check-page")
_START_SECONDS = 240
console = Console()


def main() -> int:
    """Carry out the command line's action and return the exit code."""
    parser = argparse.ArgumentParser(prog="suite", description=__doc__)
    parser.add_argument("action", choices=_ACTIONS)
    parser.add_argument("argument", nargs="*", help="a profile, an app's name, or programs to install")
    parser.add_argument("--store", default=DEFAULT_STORE)
    parser.add_argument("--servers", action="store_true", help="start the servers only, and no services")
    arguments = parser.parse_args()
    named = arguments.argument[0] if arguments.argument else ""
    match arguments.action:
        case "status":
            return _status()
        case "stop":
            return _stop()
        case "logs":
            return _logs(named)
        case "setup":
            return _setup()
        case "install":
            return _install(arguments.argument)
        case "check-page":
            return page.check()
    try:
        choice = Choice.of(named or DEFAULT_PROFILE, arguments.store, services=not arguments.servers)
    except Unknown as error:
        console.print(str(error), highlight=False)
        return 2
    match arguments.action:
        case "run":
            for number in (signal.SIGHUP, signal.SIGTERM):  # end the suite as Ctrl-C does
                if signal.getsignal(number) != signal.SIG_IGN:  # `nohup` has SIGHUP ignored
                    signal.signal(number, signal.default_int_handler)
            return _run(choice)
        case "start":
            return _start(choice)
    asyncio.run(supervisor.supervise(choice))
    return 0


def _setup(choice: Choice | None = None) -> int:
    """Build or fetch what takes long, and show the progress; return the exit code.

    With a choice, this includes the programs of its servers, so that the supervisor has nothing to fetch.
    """
    try:
        for program in runtime.DAPR_PROGRAMS:
            runtime.dapr(program)
        page.build()
        if choice is not None:
            profiles.servers_of(choice, state_dir(choice.state))
            profiles.zipkin()
            return 0
    except runtime.Missing as error:
        console.print(str(error), highlight=False, markup=False)
        return 1
    try:
        infra.zipkin_jar()
    except runtime.Missing as error:
        console.print(f"Going on without Zipkin: {error}", highlight=False)
    return 0


def _install(programs: list[str]) -> int:
    try:
        for program in programs:
            match program:
                case "helm":
                    runtime.helm()
                case "page-tools":
                    page.packages()
                case _:
                    packages.program(program)
    except runtime.Missing as error:
        console.print(str(error), highlight=False)
        return 1
    return 0


def _start(choice: Choice) -> int:
    running = supervisor.read()
    if running is not None:
        return _there(running, choice)
    if code := _setup(choice):
        return code
    process = supervisor.start_in_background(choice)
    try:
        if (error := _wait_started(choice, process)) is not None:
            console.print(f"The suite did not start:\n{error}", style="red", highlight=False, markup=False)
            return 1
    except (KeyboardInterrupt, OSError):  # OSError: the terminal is gone
        process.terminate()  # `supervisor.stop` finds it by its report only, which may not exist yet
        with step("Stopping the suite"):
            process.wait()
        return 130
    report = supervisor.read()
    if process.poll() == supervisor.TAKEN:
        if report is not None:
            return _there(report, choice)
        console.print("Another `make start` or `make stop` is at work; try again.", highlight=False)
        return 1
    if report is not None and report.state == "starting" and process.poll() is None:
        console.print(
            f"The suite is still starting after {_START_SECONDS} s: "
            "`make status` says what it waits for, `make stop` ends it.",
            highlight=False,
        )
        return 1
    if report is None or report.state != "running":
        console.print(f"The suite did not start; {supervisor.LOG.relative_to(ROOT)} may say why.")
        return 1
    for name, address in report.addresses.items():
        console.print(f"{name:16} {address}", highlight=False)
    return 0


def _there(running: supervisor.Report, choice: Choice) -> int:
    """Say which suite is there already; return the exit code of a start of the choice."""
    runs = f"The {'suite is' if running.services else 'servers are'} already running"
    of = f"profile {running.profile}, store {running.store}"
    if running.state != "running":
        runs = f"The suite is {running.state}"
    console.print(f"{runs} ({of}); `make stop` stops everything.", highlight=False)
    return 0 if running.choice == choice and running.state == "running" else 1


def _wait_started(choice: Choice, process: subprocess.Popen[bytes]) -> str | None:
    """Wait until the suite runs, has ended, or takes too long; return the error it reports, if any."""
    deadline = time.monotonic() + _START_SECONDS
    with step(f"Starting the suite (profile {choice.profile}, store {choice.store})"):
        while time.monotonic() < deadline:
            report = supervisor.read()
            if report is not None and report.supervisor.pid != process.pid:
                report = None  # of another start; this supervisor ends as soon as it sees that one
            if report is not None and report.state == "running":
                break
            if report is not None and report.error:
                return report.error
            if process.poll() is not None:
                break
            time.sleep(0.1)
    return None


def _run(choice: Choice) -> int:
    """Start the suite, show its state until Ctrl-C, and stop it; return the exit code."""
    if code := _start(choice):
        return code
    try:
        with Live(console=console, refresh_per_second=4, auto_refresh=console.is_terminal) as live:
            last = ""
            while (report := supervisor.read()) is not None:
                if console.is_terminal:
                    live.update(Group(_table(report), Text("Ctrl-C stops everything.", style="dim")))
                else:
                    states = ", ".join(
                        f"{name} {fields['state']}" for name, fields in report.processes.items()
                    )
                    if states != last:
                        console.print(states, highlight=False)
                        last = states
                time.sleep(0.25)
    except KeyboardInterrupt:
        return _stop()
    finally:
        supervisor.stop()  # even if printing fails because the terminal is gone
    console.print("The suite ended.")
    return 1


def _status() -> int:
    report = supervisor.read()
    if report is None:
        console.print("The suite is not running; `make start` starts it.")
        return 3
    console.print(f"Profile {report.profile}, store {report.store}: {report.state}")
    console.print(_table(report))
    return 0 if report.state == "running" else 1


def _table(report: supervisor.Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for heading in ("process", "state", "pid", "restarts", "address"):
        table.add_column(heading)
    for name, fields in report.processes.items():
        style = "green" if fields["state"] == "ready" else "yellow"
        table.add_row(
            name,
            Text(fields["state"], style=style),
            fields["pid"],
            fields["restarts"],
            report.addresses.get(name, ""),
        )
    return table


def _stop() -> int:
    with step("Stopping the suite"):
        stopped = supervisor.stop()
    console.print("The suite has stopped." if stopped else "The suite is not running.")
    return 0


def _logs(name: str) -> int:
    """Replace this process by `tail`; return 1 if there is no log to follow."""
    files = sorted(str(path) for path in (ROOT / ".annals").glob(f"*/logs/{name or '*'}.log"))
    if files:
        os.execvp("tail", ["tail", "-n", "50", "-F", *files])  # noqa: S606
    console.print(f"There is no log of {name or 'anything'} yet.")
    return 1


if __name__ == "__main__":
    sys.exit(main())
