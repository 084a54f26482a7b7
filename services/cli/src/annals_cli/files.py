"""Output files that exist complete or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from annals_cli.sidecar import Exit, Failed

STDOUT = Path("-")
"""Standard output. What is written there stays, so its last line says whether it is complete."""


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name only once it is complete, or standard output. Raises Failed."""
    try:
        if path == STDOUT:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        if path.exists() and not path.is_file():
            raise Failed(f"{path} is not a file; - writes to standard output", Exit.USAGE)
        target = path.resolve()  # a symbolic link stays, and points to the new file
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as out:
                yield out
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except BrokenPipeError:
        raise  # not a failure of the file: its reader has gone
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}", Exit.ERROR) from error


def broken_off(path: Path) -> Failed:
    """Return the error to raise when the export to `path` ended early."""
    left = "what was written is incomplete" if path == STDOUT else "nothing was written"
    return Failed(f"the export was broken off; {left}", Exit.UNAVAILABLE)
