"""The faults of a running suite, on a schedule that is the same for the same seed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
from faulty_proxy import Faults, FaultyProxy

from suite import profiles
from suite.manifest import App
from suite.process import Process, Spec
from suite.suite import Suite

SERVICES = ("command", "projector", "saga-orchestrator", "notification")
SIDECARS = tuple(f"{name}-dapr" for name in SERVICES)
SERVERS = ("postgres", "nats", "placement", "scheduler")
TOKEN = "what-sidecars-tell-their-apps"
_PROXIED = {"postgres": (profiles.POSTGRES_PORT, 25432), "nats": (profiles.NATS_PORT, 24222)}
_FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"
_BACKLOG = 400
"""Unpublished commits at which commands are refused: few, so that a burst reaches the limit."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, injected `pause` seconds after the previous one is over."""

    kind: str
    target: str
    pause: float
    seconds: float = 0.0
    amount: int = 0

    def __str__(self) -> str:
        how = f" {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{how}{f' {self.amount:+d}' if self.amount else ''}"


def schedule(seed: int) -> Iterator[Fault]:
    """Yield faults without end. Each round contains every fault, in a new order."""
    dice = random.Random(seed)
    while True:
        round_ = [
            *(("kill", name) for name in (*SERVICES, *SIDECARS, *SERVERS)),
            *(("pause", name) for name in (*SERVICES, *SIDECARS, *SERVERS)),
            *((kind, name) for kind in ("cut", "slow", "lossy") for name in _PROXIED),
            *(("skew", name) for name in ("command", "saga-orchestrator")),
            ("burst", "command"),
            ("burst", "command"),
        ]
        dice.shuffle(round_)
        for kind, target in round_:
            pause = dice.uniform(0.5, 3.0)
            match kind:
                case "pause":
                    yield Fault(kind, target, pause, dice.choice((1.5, 3, 6, 12)))
                case "slow" | "lossy":
                    yield Fault(kind, target, pause, dice.uniform(3, 8), dice.randrange(1, 10**6))
                case "skew":
                    yield Fault(kind, target, pause, dice.uniform(4, 10), dice.choice((600, 90, -20)))
                case "burst":
                    yield Fault(kind, target, pause, 0, 1_500)
                case _:
                    yield Fault(kind, target, pause)


class SoakSuite(Suite):
    """The suite with fault-injecting proxies before its database and its broker.

    `patches` maps a service to a directory with a `sitecustomize.py`. Apps accept only requests with their
    sidecar's token, as in production.
    """

    __test__ = False

    def __init__(self, home: Path, patches: Mapping[str, Path]) -> None:
        super().__init__("embedded", home=home)
        self._patches = patches
        self.proxies = {name: FaultyProxy(to, at) for name, (at, to) in _PROXIED.items()}
        self.injected: Counter[str] = Counter()
        """How often the proxies disturbed passing traffic, by kind of fault."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the proxies and the suite; stop them on exit."""
        async with AsyncExitStack() as stack:
            for proxy in self.proxies.values():
                await stack.enter_async_context(proxy)
            await stack.enter_async_context(self)
            yield

    def _write_secrets(self, secrets: Mapping[str, str]) -> None:
        through = dict(secrets)
        for name, (port, proxy) in _PROXIED.items():
            through[name] = secrets[name].replace(f":{port}", f":{proxy}")
            assert through[name] != secrets[name], f"{name} is not at {port}: no proxy is before it"
        super()._write_secrets(through)

    def _sidecar(self, app: App) -> Spec:
        spec = super()._sidecar(app)
        return replace(spec, env={**spec.env, "APP_API_TOKEN": TOKEN})

    def _service(self, app: App) -> Spec:
        spec = super()._service(app)
        env = {**spec.env, "APP_API_TOKEN": TOKEN}
        if app.app_id == "command":
            env["ANNALS_MAX_BACKLOG"] = str(_BACKLOG)
        if app.app_id in self._patches:
            env["PYTHONPATH"] = str(self._patches[app.app_id])
        return replace(spec, env=env)

    async def all_ready(self) -> None:
        """Wait until every process is ready."""
        await asyncio.gather(*(process.wait_ready() for process in self.processes.values()))

    async def inflict(self, fault: Fault, burst: Callable[[int], Awaitable[None]]) -> None:
        """Inject a fault and wait until it is over and every process is ready again.

        `burst(amount)` sends a burst of commands; it returns once commands are refused for it, or after a
        while.
        """
        process = self.processes[fault.target]
        match fault.kind:
            case "kill":
                await _kill(process)
            case "pause":
                async with _stopped(process):
                    await asyncio.sleep(fault.seconds)
            case "cut":
                self.proxies[fault.target].cut_all()
            case "slow":
                await self._through(fault, Faults(fault.amount, delay=0.4, longest_delay=0.4))
            case "lossy":
                rare = Faults(fault.amount, cut=0.01, lose_reply=0.01, swallow=0.003, delay=0.1)
                await self._through(fault, rare)
            case "skew":
                await self._skew(process, fault)
            case "burst":
                # While the broker is halted, commits wait to be published, and the backlog fills.
                async with _stopped(self.processes["nats"]):
                    await asyncio.gather(burst(fault.amount), asyncio.sleep(6))
        await self.all_ready()

    async def _through(self, fault: Fault, faults: Faults) -> None:
        proxy = self.proxies[fault.target]
        before, proxy.faults = proxy.injected, faults
        await asyncio.sleep(fault.seconds)
        proxy.faults = None
        self.injected[fault.kind] += proxy.injected - before

    async def _skew(self, process: Process, fault: Fault) -> None:
        """Restart a service with its clock `amount` seconds off, and later with the right one."""
        right = process.spec
        process.spec = replace(right, env={**right.env, **_another_clock(fault.amount)})
        try:
            await _kill(process)
            await process.wait_ready()
            loaded = Path(f"/proc/{process.pid}/maps").read_text()
            assert _FAKETIME in loaded, f"{fault}: its clock is right"
            await asyncio.sleep(fault.seconds)
        finally:
            process.spec = right
            await _kill(process)


def skewable() -> bool:
    """Return whether this machine can start a process with a shifted clock."""
    clock = [sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.run(clock, env=os.environ | _another_clock(600), capture_output=True, check=True)
    return float(told.stdout) > time.time() + 500


def _another_clock(seconds: int) -> dict[str, str]:
    """Return the environment of a process whose clock is `seconds` ahead."""
    return {"LD_PRELOAD": _FAKETIME, "FAKETIME": f"{seconds:+d}s", "DONT_FAKE_MONOTONIC": "1"}


async def _kill(process: Process) -> None:
    process.restarts = 0  # so that the runner does not back off: these kills are ours
    process.kill()
    await process.wait_exit()


@asynccontextmanager
async def _stopped(process: Process) -> AsyncIterator[None]:
    """Suspend a process and its children; resume them on exit. Children that start meanwhile run on."""
    if process.pid is None:
        yield
        return
    parent = psutil.Process(process.pid)
    halted = [parent, *parent.children(recursive=True)]
    try:
        for one in halted:
            with suppress(psutil.NoSuchProcess):
                one.suspend()
        yield
    finally:
        for one in reversed(halted):
            with suppress(psutil.NoSuchProcess):
                os.kill(one.pid, signal.SIGCONT)
