"""A real sidecar for a test: finds the daprd program and runs it as a process."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from annals.free_ports import free_port

_READY_SECONDS = 60.0
_STOP_SECONDS = 20.0
_LOG_LINES = 15

HELP = (
    "daprd is not found. Install Dapr 1.18 (`dapr init --slim --runtime-version 1.18.2`), or say where daprd "
    "is: `pytest --annals-daprd PATH`, `annals_daprd = PATH` in pytest's configuration, or ANNALS_DAPRD=PATH."
)

CONFIGURATION = """\
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata:
  name: test
spec:
  # Sidecars of one test find each other in a file: no multicast, and no strangers.
  nameResolution:
    component: sqlite
    configuration:
      connectionString: {directory}/names.db
      updateInterval: 10s
      timeout: 5s
"""


class NoDaprd(Exception):
    """No daprd was found; the text says how to provide one."""


class NotReady(Exception):
    """The sidecar did not become ready; the text ends with the last lines of its log."""


def find_daprd(said: str | None) -> Path:
    """Return the path of daprd: `said`, ANNALS_DAPRD, that of `dapr init`, or on the PATH, in this order.

    Raises NoDaprd if there is none, or if `said` or ANNALS_DAPRD names a file that does not exist.
    """
    named = said or os.environ.get("ANNALS_DAPRD")
    if named:
        if not Path(named).is_file():
            raise NoDaprd(f"there is no {named}. {HELP}")
        return Path(named)
    for candidate in (Path.home() / ".dapr" / "bin" / "daprd", shutil.which("daprd")):
        if candidate and Path(candidate).is_file():
            return Path(candidate)
    raise NoDaprd(HELP)


@dataclass(slots=True)
class RealSidecar:
    """A daprd process. It can be killed and started again on the same ports."""

    app_id: str
    program: Path
    directory: Path
    resources: Sequence[Path]
    app_port: int | None = None
    placement: str = ""
    scheduler: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    grpc_port: int = field(default_factory=free_port)
    http_port: int = field(default_factory=free_port)
    _internal: int = field(default_factory=free_port)
    _metrics: int = field(default_factory=free_port)
    _process: asyncio.subprocess.Process | None = None

    @property
    def log(self) -> Path:
        """The file with the output of daprd."""
        return self.directory / f"{self.app_id}-{self.grpc_port}.log"

    async def start(self) -> None:
        """Start daprd and wait until it is ready. Raises NotReady."""
        configuration = self.directory / "configuration.yaml"
        configuration.write_text(CONFIGURATION.format(directory=self.directory))
        argv = [
            *(str(self.program), "--app-id", self.app_id, "--dapr-listen-addresses", "127.0.0.1"),
            *("--dapr-internal-grpc-listen-address", "127.0.0.1", "--metrics-listen-address", "127.0.0.1"),
            *("--dapr-http-port", str(self.http_port), "--dapr-grpc-port", str(self.grpc_port)),
            *("--dapr-internal-grpc-port", str(self._internal), "--metrics-port", str(self._metrics)),
            *("--placement-host-address", self.placement, "--scheduler-host-address", self.scheduler),
            *("--config", str(configuration), "--enable-profiling=false"),
        ]
        for path in self.resources:
            argv += ["--resources-path", str(path)]
        if self.app_port is not None:
            argv += ["--app-port", str(self.app_port), "--app-protocol", "http"]
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"DAPR_HOST_IP": "127.0.0.1", **os.environ, **self.environment},
            )
        await self._wait_ready(self._process)

    async def _wait_ready(self, process: asyncio.subprocess.Process) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        url = f"http://127.0.0.1:{self.http_port}/v1.0/healthz/outbound"
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=2)) as session:
            while time.monotonic() < deadline and process.returncode is None:
                try:
                    async with session.get(url) as answer:
                        if answer.ok:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    pass  # not yet
                await asyncio.sleep(0.1)
        state = "is not ready" if process.returncode is None else f"exited with {process.returncode}"
        tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:])
        await self.kill()
        raise NotReady(f"the sidecar of {self.app_id} {state}; its log ends:\n{tail}")

    async def kill(self) -> None:
        """End daprd as a crash would (SIGKILL)."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """Ask daprd to stop (SIGTERM), and kill it if it has not ended in time."""
        await self._end(signal.SIGTERM)

    async def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.send_signal(how)
        try:
            async with asyncio.timeout(_STOP_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
