"""The sidecars' configuration without tracing: benchmarks compare like with like, and less has to start."""

from __future__ import annotations

from pathlib import Path

import yaml

from suite.paths import ROOT


def config(home: Path) -> Path:
    """Write the configuration to a folder and return its path."""
    found = yaml.safe_load((ROOT / "components" / "config.yaml").read_text())
    found["spec"]["tracing"]["samplingRate"] = "0"
    path = home / "config.yaml"
    path.write_text(yaml.safe_dump(found))
    return path
