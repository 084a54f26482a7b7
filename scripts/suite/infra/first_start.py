"""Creates the data of servers at their first start; an interrupted first start is begun again by the next."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from suite.runtime import Missing, locked

_TOLD = 1_000  # characters of a failed program's output in the error


def whole(directory: Path, mark: str, make: Callable[[Path], None]) -> None:
    """Fill a directory by `make`, unless it holds a file named `mark`, which shows that it is complete.

    Programs write that file long before they are done. So `make` fills a directory of another name, which
    gets the final name when it is complete.
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
    """Run a program to its end. Raises Missing, with the end of its output, if it fails."""
    ended = subprocess.run(
        argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", **options
    )
    if ended.returncode:
        raise Missing(f"{argv[0]} failed ({ended.returncode}):\n{ended.stdout[-_TOLD:]}")
