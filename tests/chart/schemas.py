"""Whether a manifest is what a cluster takes: Kubernetes' own schemas, and those of custom resources."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml

from suite import runtime

# Where the definitions of custom resources are: Go module, version, folder.
_DEFINITIONS = {
    "dapr.io": ("github.com/dapr/dapr", f"v{runtime.DAPR_VERSION}", "charts/dapr/crds"),
    "monitoring.coreos.com": (
        "github.com/prometheus-operator/prometheus-operator",
        "v0.85.0",
        "example/prometheus-operator-crd",
    ),
    "keda.sh": ("github.com/kedacore/keda/v2", "v2.21.0", "config/crd/bases"),
}
# Their operators are no Go modules that can be fetched.
UNCHECKED = frozenset({"kafka.strimzi.io", "postgresql.cnpg.io"})


class _Loader(yaml.CSafeLoader):
    """A safe loader to which `=` is a text, as it is to YAML 1.2."""


_Loader.add_constructor("tag:yaml.org,2002:value", yaml.CSafeLoader.construct_yaml_str)


def check(manifest: dict[str, Any]) -> None:
    """Raise when a cluster would not take it, or would drop a field that it does not know."""
    if manifest["kind"] == "Secret":
        manifest = {**manifest, "data": dict.fromkeys(manifest["data"], "dG9rZW4=")}
    _check(json.dumps(manifest, sort_keys=True))


@functools.cache
def _check(text: str) -> None:
    """Each different one once: most are the same for every broker."""
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
                    # Definitions leave to the API server what all objects have.
                    schema["properties"] |= {"metadata": {}, "apiVersion": {}, "kind": {}}
                    found[document["spec"]["names"]["kind"], f"{group}/{one['name']}"] = schema
    return found


def _strict(schema: Any) -> Any:
    """The schema, with unknown fields refused where it does not say that it keeps them."""
    if not isinstance(schema, dict):
        return schema
    made = {name: _strict(value) if name != "properties" else value for name, value in schema.items()}
    if "properties" in schema:
        made["properties"] = {name: _strict(value) for name, value in schema["properties"].items()}
        if "additionalProperties" not in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
            made["additionalProperties"] = False
    if isinstance(pattern := schema.get("pattern"), str):
        made["pattern"] = pattern.replace("^(?i)", "(?i)^")  # Go takes a flag anywhere, Python first
    if schema.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    return made
