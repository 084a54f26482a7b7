"""The paths of the checkout, of the cache outside it, and of a profile's state."""

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
    """Return the directory of a profile's data and logs; it is in the checkout, and not in git."""
    return ROOT / ".annals" / profile
