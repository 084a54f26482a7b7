"""Renders the chart as `helm install` would, without a cluster."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite import runtime
from suite.paths import ROOT

CHART = ROOT / "charts" / "annals"
BROKERS = sorted(path.name for path in (ROOT / "components" / "brokers").iterdir())
STORES = sorted({path.name for path in (ROOT / "components" / "stores").iterdir()} - {"sqlite"})

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


class Refused(Exception):
    """Helm refused to render; the text says why."""


@pytest.fixture(scope="session")
def helm() -> Path:
    return runtime.helm()


@pytest.fixture(scope="session")
def credentials() -> Mapping[str, Any]:
    """A credential for each secret that any component file names."""
    names = set()
    for path in (ROOT / "components").glob("*/**/*.yaml"):
        for document in yaml.load_all(path.read_text(), yaml.CSafeLoader):
            for item in document["spec"].get("metadata", []) if document["kind"] == "Component" else []:
                if "secretKeyRef" in item:
                    names.add(item["secretKeyRef"]["name"])
    return {name: {"value": f"the-{name}"} for name in names}


@pytest.fixture(scope="session")
def render(helm: Path, credentials: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Return a function that renders the chart with values over all credentials; `bare` leaves those out."""

    @cache
    def text(values: str, release: str) -> str:
        file = tmp_path_factory.mktemp("values") / "values.yaml"
        file.write_text(values)
        argv = [str(helm), "template", release, str(CHART), "--namespace", "here", "--values", str(file)]
        argv += ["--kube-version", f"{runtime.KUBERNETES}.0"]
        result = subprocess.run(argv, capture_output=True, text=True, check=False)
        if result.returncode:
            raise Refused(result.stderr)
        return result.stdout

    def rendered(
        values: Mapping[str, Any] | None = None, *, bare: bool = False, release: str = "annals"
    ) -> list[Manifest]:
        given = dict(values or {})
        if not bare:
            given["credentials"] = {**credentials, **given.get("credentials", {})}
        documents = yaml.load_all(text(yaml.safe_dump(given), release), yaml.CSafeLoader)
        return [document for document in documents if document]

    return rendered


EVERYTHING: Mapping[str, Any] = {
    "services": {"console": {"enabled": True, "env": {"ANNALS_AUTH": "oidc"}}, "toolbox": {"enabled": True}},
    "ingress": {"enabled": True, "className": "nginx", "tlsSecret": "annals-tls", "annotations": {"a": "b"}},
    "kafka": {"bundled": True},
    "postgresql": {"bundled": True, "maxConnections": 1420},  # enough for what an autoscaler may set
    "zipkin": {"bundled": True},
    "monitoring": {"podMonitors": True, "alerts": True, "dashboard": True},
    "networkPolicy": {"restrictEgress": True},
    "pod": {
        "priorityClassName": "high",
        "labels": {"team": "annals"},
        "annotations": {"team": "annals"},
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "dedicated", "operator": "Exists"}],
    },
    "image": {"pullSecrets": [{"name": "registry"}]},
}


def of_broker(broker: str) -> dict[str, Any]:
    """Return the values for a broker. With MQTT, each service has only one replica."""
    services = ("command", "projector", "saga-orchestrator", "notification")
    replicas = {"services": {name: {"replicas": 1} for name in services}}
    return {"broker": broker, **(replicas if broker == "mqtt" else {})}


def of_kind(manifests: list[Manifest], kind: str) -> dict[str, Manifest]:
    """Return the manifests of a kind by name."""
    return {one["metadata"]["name"]: one for one in manifests if one["kind"] == kind}


def metadata(component: Manifest) -> dict[str, Any]:
    """Return a component's metadata: each name with its value or secretKeyRef."""
    return {one["name"]: one.get("value", one.get("secretKeyRef")) for one in component["spec"]["metadata"]}
