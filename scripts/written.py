"""The command line of scripts that generate files of the repository: `write` them, or `check` them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]


def run(made: Callable[[], Mapping[Path, str]], of: str, target: str, whole: Path | None = None) -> int:
    """Write or check the files that `made` returns, as the command line says; return the exit code.

    `of` names the source of the files, and `target` is the `make` target that writes them. A check also
    fails if the directory `whole` holds any other file.
    """
    if sys.argv[1:] not in (["write"], ["check"]):
        sys.exit(f"usage: {Path(sys.argv[0]).name} write | check")
    files = made()
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if sys.argv[1] == "write":
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
            print(f"{path.relative_to(_ROOT)} is updated")
        return 0
    for path in stale:
        print(f"{path.relative_to(_ROOT)} does not match {of}: `make {target}` updates it")
    strays = [path for path in whole.iterdir() if path not in files] if whole else []
    for path in strays:
        print(f"{path.relative_to(_ROOT)} is no longer generated: remove it")
    return 1 if stale or strays else 0
