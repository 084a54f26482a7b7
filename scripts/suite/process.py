"""A child process that is started, watched and restarted when it dies, and that dies with this process."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import pwd
import shutil
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_BACK_OFF_SECONDS = (0.2, 0.5, 1.0, 2.0, 5.0)
_STABLE_SECONDS = 10.0
_TAIL_BYTES = 64 * 1024


class StartFailed(Exception):
    """Raised if a process does not become ready; the text names it and ends with the end of its log."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run, and how to tell that it serves.

    `ready` is polled until it returns true. `user` is the account to run as if this process is root. If the
    process was away for more than `given_up_seconds`, the sidecars no longer try to connect to it; they must
    be restarted once it serves again.
    """

    name: str
    argv: Sequence[str]
    ready: Callable[[], Awaitable[bool]]
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    user: str | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    stop_seconds: float = 15.0
    ready_seconds: float = 60.0
    given_up_seconds: float = math.inf


def back_off(restarts: int) -> float:
    """Return the seconds to wait before the next restart."""
    return _BACK_OFF_SECONDS[min(restarts, len(_BACK_OFF_SECONDS) - 1)]


class Process:
    """A running `Spec`. Its output goes to `log_dir/<name>.log`.

    `given_up` is called when the process serves again after more than the spec's `given_up_seconds`.
    """

    def __init__(
        self,
        spec: Spec,
        log_dir: Path,
        *,
        restart: bool = True,
        given_up: Callable[[], None] = lambda: None,
    ) -> None:
        self.spec = spec
        self.log = log_dir / f"{spec.name}.log"
        self.restart = restart
        self.restarts = 0
        self.state = "stopped"
        self._process: asyncio.subprocess.Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._started = 0.0
        self._given_up = given_up
        self._away_since: float | None = None
        self._ready = asyncio.Event()
        self._noting: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None if the process does not run."""
        return self._process.pid if self._process and self._process.returncode is None else None

    async def start(self) -> None:
        """Start the process and watch it; `wait_ready` waits until it serves."""
        await self._spawn()
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {self.spec.name}")

    async def wait_ready(self) -> None:
        """Wait until the process serves. Raises StartFailed if it exits for good or takes too long."""
        deadline = time.monotonic() + self.spec.ready_seconds
        while not self._ready.is_set():
            if self._noting is not None and self._noting.done() and not self._noting.cancelled():
                self._noting.result()  # raises what `ready` has raised
            if self.pid is None and not self.restart:
                raise StartFailed(f"{self.spec.name} exited; its log ends:\n{self.log_tail()}")
            if time.monotonic() > deadline:
                raise StartFailed(
                    f"{self.spec.name} is not ready after {self.spec.ready_seconds:.0f} s; "
                    f"its log ends:\n{self.log_tail()}"
                )
            await asyncio.sleep(0.05)

    def kill(self) -> None:
        """Kill the process and its children with SIGKILL, like a crash; the watcher may restart it."""
        if self.pid is not None:
            self._ready.clear()
            os.killpg(self.pid, signal.SIGKILL)

    async def wait_exit(self) -> None:
        """Wait until the current process has exited."""
        if self._process is not None:
            await self._process.wait()

    async def stop(self) -> None:
        """Stop the process for good: gracefully, and by force after `stop_seconds`; wait until it is gone."""
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        process, self._process, self.state = self._process, None, "stopped"
        if process is None:
            return
        if process.returncode is None:
            process.send_signal(self.spec.stop_signal)
            try:
                async with asyncio.timeout(self.spec.stop_seconds):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)  # children that it left running
        except ProcessLookupError:
            return

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of the log."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(-min(_TAIL_BYTES, self.log.stat().st_size), os.SEEK_END)
            return "\n".join(log.read().decode(errors="replace").splitlines()[-lines:])

    async def _spawn(self) -> None:
        self.state = "starting"
        self._ready.clear()
        self._started = time.monotonic()
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *_as_child_of_ours(self.spec),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | _past_proxies() | dict(self.spec.env),
                cwd=self.spec.cwd,
                start_new_session=True,
            )

    async def _watch(self) -> None:
        while self._process is not None:
            self._noting = asyncio.create_task(self._note_ready())
            try:
                code = await self._process.wait()
            finally:
                self._noting.cancel()
                self._ready.clear()
            if self.state == "ready":
                self._away_since = time.monotonic()
            if not self.restart:
                self.state = f"exited ({code})"
                return
            if time.monotonic() - self._started > _STABLE_SECONDS:
                self.restarts = 0
            wait = back_off(self.restarts)
            self.restarts += 1
            self.state = f"exited ({code}), restarting"
            # On a full disk, restart without this line in the log.
            with contextlib.suppress(OSError), self.log.open("a") as log:
                log.write(f"--- {self.spec.name} exited with {code}; restart {self.restarts} in {wait} s\n")
            await asyncio.sleep(wait)
            await self._spawn()

    async def _note_ready(self) -> None:
        while not await self.spec.ready():
            await asyncio.sleep(0.1)
        since, self._away_since = self._away_since, None
        if since is not None and time.monotonic() - since > self.spec.given_up_seconds:
            self._given_up()
        self.state = "ready"
        self._ready.set()


def _past_proxies() -> dict[str, str]:
    """Return a `no_proxy` that adds this machine, so that no process asks a proxy for a loopback address."""
    given = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    return {"no_proxy": ",".join(filter(None, (given, "127.0.0.1", "localhost")))}


def _as_child_of_ours(spec: Spec) -> list[str]:
    """Return the command of a child that Linux kills when this process dies, whatever it dies of.

    `setpriv`, where it is installed, sets this up and changes the user. Python would do both in the forked
    process, which crashes now and then because gRPC's threads are missing there.
    """
    setpriv = shutil.which("setpriv")
    argv = list(spec.argv)
    if setpriv is not None:
        argv = ["--pdeathsig", "KILL", *argv]
    if spec.user and os.geteuid() == 0:
        if setpriv is None:
            raise StartFailed(f"setpriv is needed to run {spec.name} as {spec.user}: install util-linux.")
        known = pwd.getpwnam(spec.user)
        argv = ["--reuid", str(known.pw_uid), "--regid", str(known.pw_gid), "--clear-groups", *argv]
    return argv if setpriv is None else [setpriv, *argv]
