"""What `make deploy` has Helm install."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.paths import ROOT


@pytest.mark.parametrize(
    ("values", "there"), [("{}", True), ("{services: {console: {enabled: false}}}", False)]
)
def test_the_console_is_deployed_unless_the_values_are_without_it(
    helm: Path, credentials: Mapping[str, Any], tmp_path: Path, values: str, there: bool
) -> None:
    file, given = tmp_path / "values.yaml", tmp_path / "credentials.yaml"
    file.write_text(values)
    given.write_text(yaml.safe_dump({"credentials": dict(credentials)}))
    plan = subprocess.run(
        ["make", "--dry-run", "deploy", f"HELM={helm}", f"VALUES={file}"],
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
    assert ("name: annals-console\n" in rendered.stdout) is there
