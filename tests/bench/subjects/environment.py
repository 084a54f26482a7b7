"""Installs the subjects' packages in an environment of their own, so that no service can import them.

Run as a program, it installs what is missing.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import bootstrap
from suite.page import node
from suite.paths import ROOT
from suite.progress import step

HERE = Path(__file__).parent
ENVIRONMENT = ROOT / ".annals" / "bench"
PYTHON = ENVIRONMENT / "bin" / "python"
TEMPORAL = ENVIRONMENT / "bin" / "temporal"
MESSAGE_DB = HERE / "node_modules" / "@eventide" / "message-db" / "database"
_LOCKS = (HERE.parent / "requirements.lock", HERE / "package-lock.json")


def install() -> None:
    """Bring the environment to what the lock files say, unless it is there already."""
    wanted = hashlib.sha256(b"".join(lock.read_bytes() for lock in _LOCKS)).hexdigest()
    stamp = ENVIRONMENT / ".installed"
    if stamp.exists() and stamp.read_text() == wanted and MESSAGE_DB.exists():
        return
    uv = str(bootstrap.uv())
    with step("Fetching what Annals is measured against"):
        if not PYTHON.exists():
            subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, ENVIRONMENT], check=True)
        subprocess.run(
            [uv, "pip", "sync", "--quiet", "--require-hashes", _LOCKS[0]],
            check=True,
            env=os.environ | {"VIRTUAL_ENV": str(ENVIRONMENT)},
        )
        runtime = node()
        subprocess.run(
            [*runtime.npm, "ci", "--no-progress", "--silent"], check=True, cwd=HERE, env=runtime.environment
        )
    stamp.write_text(wanted)


if __name__ == "__main__":
    install()
