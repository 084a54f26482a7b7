"""Reads dapr.yaml, the only description of the apps, which `dapr run -f .` reads too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from suite.sidecar import SidecarPorts


@dataclass(frozen=True, slots=True)
class App:
    """One app of the manifest."""

    app_id: str
    app_port: int
    ports: SidecarPorts
    directory: Path
    command: tuple[str, ...]
    env: Mapping[str, str]
    resources: tuple[Path, ...]
    config: Path
    health_path: str


def read(path: Path, broker: str, store: str) -> list[App]:
    """Return the apps of a manifest, with the components of `broker` and `store` instead of its own."""
    manifest = yaml.safe_load(path.read_text())
    chosen = {"brokers": broker, "stores": store}
    return [_app(manifest["common"] | app, manifest, path.parent, chosen) for app in manifest["apps"]]


def _app(app: dict[str, Any], manifest: dict[str, Any], root: Path, chosen: Mapping[str, str]) -> App:
    env = manifest["common"].get("env", {}) | app.get("env", {})
    resources = [Path(folder) for folder in app["resourcesPaths"]]
    resources = [folder.with_name(chosen.get(folder.parent.name, folder.name)) for folder in resources]
    return App(
        app["appID"],
        app["appPort"],
        SidecarPorts(
            app["daprHTTPPort"], app["daprGRPCPort"], app["daprInternalGRPCPort"], app["metricsPort"]
        ),
        (root / app["appDirPath"]).resolve(),
        tuple(app["command"]),
        {name: str(value) for name, value in env.items()},
        tuple((root / folder).resolve() for folder in resources),
        (root / app["configFilePath"]).resolve(),
        app["appHealthCheckPath"],
    )
