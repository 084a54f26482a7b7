"""Checks manifests against the schemas of Kubernetes and of the custom resources' definitions."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from suite import runtime

# The Go module, version and folder with the definitions of each group of custom resources.
_DEFINITIONS = {
    "dapr.io": ("github.com/dapr/dapr", f"v{runtime.DAPR_VERSION}", "charts/dapr/crds"),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd",
    ),
    "keda.sh": ("github.com/kedacore/keda/v2", "v2.21.0", "config/crd/bases"),
}
# The operators of these groups are not available as Go modules.
UNCHECKED = frozenset({"kafka.strimzi.io", "postgresql.cnpg.io"})


class _Loader(yaml.CSafeLoader):
    """A safe loader that reads `=` as text, as YAML 1.2 does."""


_Loader.add_constructor("tag:yaml.org,2002:value", yaml.CSafeLoader.construct_yaml_str)


def check(manifest: dict[str, Any]) -> None:
    """Raise an error if a cluster would refuse the manifest or drop an unknown field of it."""
    if manifest["kind"] == "Secret":
        manifest = {**manifest, "data": dict.fromkeys(manifest["data"], "dG9rZW4=")}
    _check(json.dumps(manifest, sort_keys=True))


@functools.cache
def _check(text: str) -> None:
    """Check each distinct manifest once; most are the same for every broker."""
    manifest = json.loads(text)
    group = manifest["apiVersion"].partition("/")[0]
    if group in _DEFINITIONS:
        jsonschema.validate(manifest, _definitions(group)[manifest["kind"], manifest["apiVersion"]])
    elif group not in UNCHECKED:
        kubernetes_validate.validate(manifest, runtime.KUBERNETES, strict=True)


@functools.cache
def _definitions(group: str) -> dict[tuple[str, str], dict[str, Any]]:
    module, version, folder = _DEFINITIONS[group]
    found = {}
    for path in Path(runtime.go_module(module, version), folder).glob("*.yaml"):
        for document in yaml.load_all(path.read_text(), _Loader):
            if document and document.get("kind") == "CustomResourceDefinition":
                for one in document["spec"]["versions"]:
                    schema = _strict(one["schema"]["openAPIV3Schema"])
                    # Definitions leave to the API server the fields that all objects have.
                    schema["properties"] |= {"metadata": {}, "apiVersion": {}, "kind": {}}
                    found[document["spec"]["names"]["kind"], f"{group}/{one['name']}"] = schema
    return found


def _strict(schema: Any) -> Any:
    """Return the schema with unknown fields refused wherever it does not preserve them."""
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) if name != "properties" else value for name, value in schema.items()}
    if "properties" in schema:
        made["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(pattern := schema.get("pattern"), str):
        made["pattern"] = pattern.replace("^(?i)", "(?i)^")  # Go accepts a flag anywhere, Python only first
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made
