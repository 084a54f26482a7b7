"""The whole suite as child processes of this one: servers, sidecars and services."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from suite import infra, keys, manifest, page, ports, profiles
from suite.infra.passwords import write_private
from suite.paths import BIN, ROOT
from suite.process import Process, Spec, StartFailed
from suite.progress import console
from suite.sidecar import sidecar


class PortBusy(Exception):
    """Raised if a port that the suite needs is taken; the text says by which process."""


class Suite:
    """Starts and stops the suite; as a context manager, it runs the suite during the block.

    `home` holds its state; `config` replaces the sidecars' configuration file. Without `services`, it starts
    only the servers, and writes the files that the components read.
    """

    control_plane: infra.ControlPlane

    def __init__(
        self,
        profile: str,
        *,
        store: str = profiles.DEFAULT_STORE,
        services: bool = True,
        home: Path = ROOT,
        restart: bool = True,
        config: Path | None = None,
    ) -> None:
        self.choice = profiles.Choice.of(profile, store, services=services)
        self.home = home
        apps = manifest.read(ROOT / "dapr.yaml", self.choice.broker, self.choice.store)
        self.apps = apps if services else []
        self.processes: dict[str, Process] = {}
        self._restart = restart
        self._config = config
        self._state = home / ".annals" / self.choice.state
        self.logs = self._state / "logs"

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    @property
    def addresses(self) -> dict[str, str]:
        """The addresses to show to people: name to URL."""
        found = {
            app.app_id: f"http://127.0.0.1:{app.app_port}" for app in self.apps if app.app_id == "console"
        }
        found |= {f"{app.app_id}-dapr": f"http://127.0.0.1:{app.ports.http}" for app in self.apps}
        if "zipkin" in self.processes:
            found["zipkin"] = f"http://127.0.0.1:{profiles.ZIPKIN_PORT}"
        return found

    async def start(self) -> None:
        """Start everything and return when every service is ready.

        Raises PortBusy, runtime.Missing and process.StartFailed.
        """
        self.logs.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(page.build)
        infrastructure = await asyncio.to_thread(profiles.prepare, self.choice, self._state)
        self.control_plane = infrastructure.control_plane
        self._check_ports(infrastructure.ports)
        self._write_secrets(infrastructure.secrets)
        keys.make(self.home / ".annals")
        beside = [await self._launch(spec) for spec in infrastructure.beside]
        needed = [await self._launch(spec) for spec in infrastructure.needed]
        await asyncio.gather(*(process.wait_ready() for process in needed))
        services = []
        for app in self.apps:
            services.append(await self._launch(self._sidecar(app)))
            services.append(await self._launch(self._service(app)))
        await asyncio.gather(
            *(process.wait_ready() for process in services), *(_wait_beside(process) for process in beside)
        )

    async def stop(self) -> None:
        """Stop everything: the services first, then their sidecars, then the servers that both need."""
        names = {app.app_id for app in self.apps}
        sidecars = {f"{name}-dapr" for name in names}
        for group in (names, sidecars, self.processes.keys() - names - sidecars):
            running = [process for name, process in self.processes.items() if name in group]
            await asyncio.gather(*(process.stop() for process in running))

    async def _launch(self, spec: Spec) -> Process:
        process = self.processes[spec.name] = Process(
            spec, self.logs, restart=self._restart, given_up=self._renew_sidecars
        )
        await process.start()
        return process

    def _renew_sidecars(self) -> None:
        for name in {f"{app.app_id}-dapr" for app in self.apps} & self.processes.keys():
            self.processes[name].kill()

    def _sidecar(self, app: manifest.App) -> Spec:
        return sidecar(
            app.app_id,
            app.ports,
            resources=app.resources,
            config=self._config or app.config,
            home=self.home,
            app_port=app.app_port,
            health_path=app.health_path,
            placement=self.control_plane.placement,
            scheduler=self.control_plane.scheduler,
        )

    def _service(self, app: manifest.App) -> Spec:
        program, *arguments = app.command
        return Spec(
            app.app_id,
            [str(BIN / program) if (BIN / program).exists() else program, *arguments],
            lambda: ports.http_ok(app.app_port, "/readyz"),
            env={
                **app.env,
                # The variables that `dapr run` sets for an app.
                "APP_ID": app.app_id,
                "APP_PORT": str(app.app_port),
                "DAPR_HTTP_PORT": str(app.ports.http),
                "DAPR_GRPC_PORT": str(app.ports.grpc),
            },
            cwd=app.directory,
            stop_seconds=30,
        )

    def _check_ports(self, servers: Mapping[str, int]) -> None:
        wanted = dict(servers)
        for app in self.apps:
            wanted[app.app_id] = app.app_port
            at = app.ports
            wanted |= {f"{app.app_id}'s sidecar ({kind})": getattr(at, kind) for kind in at.__slots__}
        taken = [
            f"port {port}, which {name} needs, is used by {ports.owner(port)}"
            for name, port in wanted.items()
            if ports.busy(port)
        ]
        if taken:
            raise PortBusy("\n".join(taken))

    def _write_secrets(self, secrets: Mapping[str, str]) -> None:
        write_private(self.home / ".annals" / "secrets.json", json.dumps(dict(secrets)))


async def _wait_beside(process: Process) -> None:
    """Wait until an optional server is ready. If it fails to start, print why and return."""
    try:
        await process.wait_ready()
    except StartFailed as error:
        console.print(f"Going on without {process.spec.name}: {error}", highlight=False, markup=False)
