"""What is done to a running suite, by a schedule that a seed makes and makes again."""

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
"""Commits that may wait for the broker before commands are refused: few, so that bursts meet it."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is done, `pause` seconds after the one before is over."""

    kind: str
    target: str
    pause: float
    seconds: float = 0.0
    amount: int = 0

    def __str__(self) -> str:
        how = f" {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.kind} {self.target}{how}{f' {self.amount:+d}' if self.amount else ''}"


def schedule(seed: int) -> Iterator[Fault]:
    """Faults without end: round after round everything in an order of its own."""
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
    """The suite with proxies before its database and broker; `patches` are directories of sitecustomize.py.

    Apps ask their sidecars for a token, as they do in production.
    """

    __test__ = False

    def __init__(self, home: Path, patches: Mapping[str, Path]) -> None:
        super().__init__("embedded", home=home)
        self._patches = patches
        self.proxies = {name: FaultyProxy(to, at) for name, (at, to) in _PROXIED.items()}
        self.injected: Counter[str] = Counter()
        """By kind of fault, how often the proxies did something to a piece that passed."""

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Ready inside, gone after."""
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
        """Wait until everything serves."""
        await asyncio.gather(*(process.wait_ready() for process in self.processes.values()))

    async def inflict(self, fault: Fault, burst: Callable[[int], Awaitable[None]]) -> None:
        """Do it, and wait until it is over: what was killed or cut is back.

        `burst(amount)` makes a burst, and returns when commands are refused for it, or after a while.
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
                # While the broker takes nothing, what is stored piles up before it.
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
        """Start a service with its clock `amount` seconds off, and after a while with the right one."""
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
    """Whether this machine can start a process with another clock."""
    clock = [sys.executable, "-c", "import time; print(time.time())"]
    told = subprocess.run(clock, env=os.environ | _another_clock(600), capture_output=True, check=True)
    return float(told.stdout) > time.time() + 500


def _another_clock(seconds: int) -> dict[str, str]:
    """The environment of a process whose clock is so far ahead."""
    return {"LD_PRELOAD": _FAKETIME, "FAKETIME": f"{seconds:+d}s", "DONT_FAKE_MONOTONIC": "1"}


async def _kill(process: Process) -> None:
    process.restarts = 0  # these are our kills: the runner need not wait longer each time
    process.kill()
    await process.wait_exit()


@asynccontextmanager
async def _stopped(process: Process) -> AsyncIterator[None]:
    """A process and its children, halted inside. What is killed and started meanwhile is not."""
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
