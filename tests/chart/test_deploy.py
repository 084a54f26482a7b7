"""What `make deploy` has Helm install."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite import runtime
from suite.paths import ROOT

from .conftest import EVERYTHING, Render, of_kind


@pytest.mark.parametrize(
    ("values", "image"),
    [("{}", "of.mine/command:"), ("{image: {repository: of.the/values}}", "of.the/values/command:")],
)
def test_what_was_built_is_deployed_unless_the_values_say_otherwise(
    helm: Path, credentials: Mapping[str, Any], tmp_path: Path, values: str, image: str
) -> None:
    file, given = tmp_path / "values.yaml", tmp_path / "credentials.yaml"
    file.write_text(values)
    given.write_text(yaml.safe_dump({"credentials": dict(credentials)}))
    plan = subprocess.run(
        ["make", "--dry-run", "deploy", f"HELM={helm}", f"VALUES={file}", "IMAGE_REPOSITORY=of.mine"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.replace("\\\n", "")
    (line,) = (line for line in plan.splitlines() if str(helm) in line)
    line = line.replace("upgrade --install", "template").replace("--wait --timeout 10m", "")
    line += f" --values {given}"

    rendered = subprocess.run(["sh", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    assert image in rendered.stdout


def test_dapr_is_asked_about_the_pods_with_a_sidecar_and_no_others(helm: Path, render: Render) -> None:
    dapr = runtime.go_module("github.com/dapr/dapr", f"v{runtime.DAPR_VERSION}") / "charts" / "dapr"
    made = subprocess.run(
        [helm, "template", "dapr", dapr, "--values", ROOT / "k8s" / "dapr.yaml"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    manifests = [one for one in yaml.safe_load_all(made) if one]
    (webhook,) = of_kind(manifests, "MutatingWebhookConfiguration")["dapr-sidecar-injector"]["webhooks"]
    assert webhook["failurePolicy"] == "Fail"

    for one in [*render(EVERYTHING), *render(), *manifests]:
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            pod = one["spec"]["template"]["metadata"]
            asked = webhook["objectSelector"]["matchLabels"].items() <= pod["labels"].items()
            assert asked is ("dapr.io/app-id" in pod.get("annotations", {})), one["metadata"]["name"]
