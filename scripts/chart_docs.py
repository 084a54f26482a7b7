"""Generates the chart's README.md and values.schema.json from its values.yaml and Chart.yaml.

The comment above a value, which starts with `# --`, becomes its description in both files. `write` writes
them; `check` fails if they do not match.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

import written

CHART = Path(__file__).resolve().parents[1] / "charts" / "annals"

_STRING, _STRINGS = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
_FREE = {"type": "object"}
_CREDENTIAL = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "existingSecret": {**_STRING, "description": "An existing secret that holds the credential."},
        "key": {**_STRING, "description": "The key in that secret; if empty, the credential's name."},
        "value": {**_STRING, "description": "The credential itself, which the chart puts into a secret."},
        "optional": {"type": "boolean", "description": "Whether the credential may be empty."},
    },
}
_SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["enabled", "publishes", "allow"],
    "properties": {
        "enabled": {"type": "boolean", "description": "Whether the service runs."},
        "port": {"type": "integer", "minimum": 0, "description": "The app's port; a tool has none."},
        "replicas": {
            "type": "integer",
            "minimum": 0,
            "description": "The number of pods, unless an autoscaler sets it.",
        },
        "image": {**_STRING, "description": "The last part of the image's name, if not the service's."},
        "command": {**_STRINGS, "description": "The command to run instead of the image's own."},
        "args": {**_STRINGS, "description": "Arguments of the command."},
        "env": {**_FREE, "additionalProperties": _STRING, "description": "Additional settings, ANNALS_…"},
        "envFrom": {**_STRINGS, "description": "Secrets whose keys are additional settings."},
        "resources": {**_FREE, "description": "Requests and limits to use instead of pod.resources."},
        "edge": {"type": "boolean", "description": "Whether clients outside the cluster may reach it."},
        "publishes": {**_STRINGS, "description": "The topics that the app may publish to."},
        "allow": {
            "type": "array",
            "description": "Who may call the service; all other calls are refused.",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["from", "verbs", "paths"],
                "properties": {
                    "from": {**_STRING, "description": "The caller's app id."},
                    "verbs": {
                        "type": "array",
                        "items": {"enum": ["GET", "POST", "PUT", "PATCH", "DELETE"]},
                        "description": "HTTP methods.",
                    },
                    "paths": {
                        "type": "array",
                        "items": {"type": "string", "pattern": "^/"},
                        "description": "Paths; each covers everything below it, unless it ends in `/*`.",
                    },
                },
            },
        },
    },
}
_FRACTION = {"type": "string", "pattern": r"^(0(\.\d+)?|1(\.0+)?)$"}
_OWN: dict[str, dict[str, Any]] = {
    "broker": {"enum": sorted(path.name for path in (CHART / "components/brokers").iterdir())},
    # SQLite is a file on one machine, which pods on different nodes cannot share.
    "store": {"enum": sorted({path.name for path in (CHART / "components/stores").iterdir()} - {"sqlite"})},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "image.pullSecrets": {"type": "array", "items": _FREE},
    "credentials": {"type": "object", "additionalProperties": _CREDENTIAL},
    "components": {"type": "object", "additionalProperties": _FREE},
    "tracing.samplingRate": _FRACTION,
    "services": {"type": "object", "additionalProperties": _SERVICE},
    "autoscaling.kind": {"enum": ["none", "hpa", "keda"]},
    # A HorizontalPodAutoscaler refuses 0, and so does KEDA for a service that is scaled by CPU only.
    "autoscaling.minReplicas": {"type": "integer", "minimum": 1},
    "autoscaling.maxReplicas": {"type": "integer", "minimum": 1},
    "networkPolicy.egress": {"type": "array", "items": _FREE},
    "pod.tolerations": {"type": "array", "items": _FREE},
}
_MAPS = {
    "sidecar.resources",
    "pod.resources",
    "pod.labels",
    "pod.annotations",
    "pod.nodeSelector",
    "serviceAccount.annotations",
    "networkPolicy.metricsFrom",
    "networkPolicy.edgeFrom",
    "autoscaling.triggers",
    "monitoring.labels",
    "ingress.annotations",
}


def values() -> Iterator[tuple[str, Any, str]]:
    """Yield the path, the default and the description of each described value.

    Exits with a message if a value other than an entry of `services` has no description.
    """
    text = (CHART / "values.yaml").read_text()
    lines = text.splitlines()
    plain = yaml.safe_load(text)

    def walk(node: yaml.MappingNode, path: tuple[str, ...], value: Any) -> Iterator[tuple[str, Any, str]]:
        for key, below in node.value:
            here = (*path, key.value)
            said = _comment(lines, key.start_mark.line)
            if said is not None:
                yield ".".join(here), value[key.value], said
            elif isinstance(below, yaml.MappingNode) and path != ("services",):
                yield from walk(below, here, value[key.value])
            elif path != ("services",):
                sys.exit(f"values.yaml: {'.'.join(here)} has no comment that starts with `# --`")

    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    yield from walk(root, (), plain)


def _comment(lines: list[str], line: int) -> str | None:
    said: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        text = lines[line].lstrip().removeprefix("#").strip()
        said.insert(0, text.removeprefix("-- "))
        if text.startswith("-- "):
            return " ".join(said)
    return None


def schema() -> str:
    """Return values.schema.json: the permitted type of each value, and its description."""
    root: dict[str, Any] = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "type": "object",
        "additionalProperties": False,
        # A chart that depends on this one hands it its `global` values.
        "properties": {"global": _FREE},
    }
    for path, default, said in values():
        *parents, name = path.split(".")
        at = root
        for depth, parent in enumerate(parents, 1):
            above = ".".join(parents[:depth])
            new = dict(_OWN.get(above) or {"type": "object", "additionalProperties": False})
            at = at["properties"].setdefault(parent, new)
            at.setdefault("properties", {})
        if parents in (["credentials"], ["services"]):
            described = dict(_CREDENTIAL if parents == ["credentials"] else _SERVICE)
        else:
            described = dict(_OWN.get(path) or _typed(path, default))
        at["properties"][name] = {"description": said, **described}
    return json.dumps(root, indent=1, ensure_ascii=False) + "\n"


def _typed(path: str, default: Any) -> dict[str, Any]:
    match default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case str():
            return {"type": "string"}
        case dict() if path in _MAPS:
            return _FREE
        case list():
            return _STRINGS
    sys.exit(f"values.yaml: declare the type of {path} in {Path(__file__).name}")


def readme() -> str:
    """Return README.md: how to install the chart, and a table of all values."""
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    rows = "\n".join(
        f"| `{path}` | {_default(path, default)} | {said.replace('|', '&#124;')} |"
        for path, default, said in values()
    )
    return f"""# The chart `annals` {chart["version"]}

{chart["description"]}

<!-- Generated from values.yaml and Chart.yaml by scripts/chart_docs.py: edit those, then make chart-docs -->

```sh
helm install annals charts/annals --namespace annals --create-namespace --values my-values.yaml --wait
helm test annals --namespace annals
```

It needs Kubernetes 1.30 or newer with Dapr 1.18. `my-values.yaml` must hold at least the credentials of the
broker and the store; nothing has a default password:

```yaml
broker: kafka
credentials:
  kafka: {{value: "kafka.example:9093"}}
  kafka-user: {{existingSecret: kafka-login, key: user}}
  kafka-password: {{existingSecret: kafka-login, key: password}}
  postgres: {{existingSecret: database, key: uri}}
```

[docs/kubernetes.md](../../docs/kubernetes.md) leads from an empty cluster to the first command, and says how
to secure, upgrade and monitor the suite. The chart uses the component files of
[components/](../../components/README.md), and changes in them only what `templates/_components.tpl` names.

## Values

| value | default | description |
|---|---|---|
{rows}
"""


def _default(path: str, default: Any) -> str:
    if path.startswith(("credentials.", "services.")):
        return "" if path.startswith("services.") else f"`{default['value']}`" if default["value"] else ""
    return f"`{json.dumps(default)}`"


def generated() -> dict[Path, str]:
    """Return both files as the values describe them: path to text."""
    return {CHART / "README.md": readme(), CHART / "values.schema.json": schema()}


if __name__ == "__main__":
    sys.exit(written.run(generated, "values.yaml", "chart-docs"))
