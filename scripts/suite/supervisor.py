"""Runs the suite in the background: one process supervises it and reports its state in a file."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import psutil

from suite.paths import ROOT
from suite.process import StartFailed
from suite.profiles import Choice
from suite.runtime import Missing
from suite.suite import PortBusy, Suite

STATE = ROOT / ".annals" / "suite.json"
LOG = ROOT / ".annals" / "supervisor.log"
TAKEN = 75
"""The exit code of a supervisor that finds another one."""
_LOOK_SECONDS = 0.25
_STOP_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Identity:
    """A process by its id and start time, so that a later one with the same id is not taken for it."""

    pid: int
    created: float

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """Return the identity of a running process, or None if there is none with this id."""
        try:
            return cls(pid, psutil.Process(pid).create_time())
        except psutil.Error:
            return None

    def alive(self) -> bool:
        """Return whether that very process still runs."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.created and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False


@dataclass(slots=True)
class Report:
    """The state of the suite, as its supervisor last wrote it."""

    supervisor: Identity
    profile: str
    store: str
    state: str
    error: str = ""
    addresses: dict[str, str] = field(default_factory=dict)
    processes: dict[str, dict[str, str]] = field(default_factory=dict)
    children: list[Identity] = field(default_factory=list)
    services: bool = True

    @property
    def choice(self) -> Choice:
        """The choice that the supervisor runs."""
        return Choice(self.profile, self.store, self.services)


def read() -> Report | None:
    """Return the report of the suite that runs now; None if none runs."""
    try:
        fields = json.loads(STATE.read_text())
    except (OSError, ValueError):
        return None
    fields["supervisor"] = Identity(**fields["supervisor"])
    fields["children"] = [Identity(**child) for child in fields["children"]]
    report = Report(**fields)
    return report if report.supervisor.alive() or any(child.alive() for child in report.children) else None


def _write(report: Report) -> None:
    STATE.parent.mkdir(parents=True, exist_ok=True)
    partial = STATE.with_suffix(".partial")
    partial.write_text(json.dumps(asdict(report)))
    partial.rename(STATE)


def observe(suite: Suite, state: str, error: str = "") -> Report:
    """Return a report on a suite that this process runs."""
    me = Identity.of(os.getpid())
    if me is None:
        raise RuntimeError("this process is not there")
    choice = suite.choice
    report = Report(me, choice.profile, choice.store, state, error, suite.addresses, services=choice.services)
    for name, process in suite.processes.items():
        report.processes[name] = {
            "state": process.state,
            "pid": str(process.pid or ""),
            "restarts": str(process.restarts),
            "log": str(process.log.relative_to(ROOT)),
        }
        identity = Identity.of(process.pid) if process.pid else None
        if identity is not None:
            report.children.append(identity)
    return report


async def supervise(choice: Choice) -> None:
    """Run a suite until SIGTERM or SIGINT, and keep its report up to date.

    Exits with TAKEN if another supervisor runs: of two starts at once, each would write the other's files.
    """
    with _only_one():
        await _supervise(choice)


@contextlib.contextmanager
def _only_one() -> Iterator[None]:
    lock = STATE.with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(TAKEN) from None
        yield


async def _supervise(choice: Choice) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    suite = Suite(choice.profile, store=choice.store, services=choice.services)
    _write(observe(suite, "starting"))  # raises on a full disk: `stop` finds no suite without a report
    starting = asyncio.create_task(suite.start())
    try:
        while not stopping.is_set():
            state, error = _progress(starting)
            _tell(suite, state, error)
            if error:
                break
            await _pause(stopping)
    finally:
        _tell(suite, "stopping", _progress(starting)[1])
        starting.cancel()
        await asyncio.wait([starting])
        failure = _progress(starting)[1]
        await suite.stop()
        if failure:
            _tell(suite, "failed", failure)
            await asyncio.sleep(1)  # `start` polls the report and must read this one before it goes
        STATE.unlink(missing_ok=True)


def _tell(suite: Suite, state: str, error: str) -> None:
    """Write the report. On a full disk the last report stays, and the suite goes on."""
    with contextlib.suppress(OSError):
        _write(observe(suite, state, error))


async def _pause(stopping: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            await stopping.wait()
    except TimeoutError:
        return


def _progress(starting: asyncio.Task[None]) -> tuple[str, str]:
    if not starting.done():
        return "starting", ""
    if starting.cancelled():
        return "stopping", ""
    error = starting.exception()
    if error is None:
        return "running", ""
    if isinstance(error, PortBusy | Missing | StartFailed):
        return "failed", str(error)
    return "failed", repr(error)


def start_in_background(choice: Choice) -> subprocess.Popen[bytes]:
    """Start the supervising process, detached from this one."""
    LOG.parent.mkdir(parents=True, exist_ok=True)
    with LOG.open("ab") as log:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "suite", "supervise", choice.profile, "--store", choice.store),
                *(() if choice.services else ("--servers",)),
            ],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def stop() -> bool:
    """Stop the suite that runs, and kill what is left of it; return False if none runs."""
    report = read()
    if report is None:
        return False
    if report.supervisor.alive():
        os.kill(report.supervisor.pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_SECONDS
    while report.supervisor.alive() and time.monotonic() < deadline:
        time.sleep(0.1)
    for identity in (report.supervisor, *report.children):
        if identity.alive():
            os.kill(identity.pid, signal.SIGKILL)
    STATE.unlink(missing_ok=True)
    return True
