"""What a server's first start makes: whole, or begun anew by the next; and why it could not be made."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suite.runtime import Missing, locked

_TOLD = 1_000


def whole(directory: Path, mark: str, make: Callable[[Path], None]) -> None:
    """Have a directory filled, once; one that was has a file by the name of `mark`.

    Programs write that file long before they are done, so what is under way has another name.
    """
    partial = directory.with_name(f"{directory.name}.partial")
    with locked(directory.parent):
        if (directory / mark).exists():
            return
        for remains in (directory, partial):
            shutil.rmtree(remains, ignore_errors=True)
        make(partial)
        partial.rename(directory)


def run(argv: Sequence[str], **options: Any) -> None:
    """Run a program to its end. Raises Missing, with what it said last, when it fails."""
    ended = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options
    )
    if ended.returncode:
        raise Missing(f"{argv[0]} failed ({ended.returncode}):\n{ended.stdout[-_TOLD:]}")
