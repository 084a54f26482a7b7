"""Where things are: the checkout, the cache outside it, the state of a profile."""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

CACHE = Path(
    os.environ.get("ANNALS_CACHE")
    or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "annals"
)


def state_dir(profile: str) -> Path:
    """Where a profile keeps its data, logs and addresses; below the checkout, and not in git."""
    return ROOT / ".annals" / profile
