"""Files that are there whole or not at all."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from annals_cli.sidecar import Exit, Failed

STDOUT = Path("-")
"""In a file's place. What was written there stays: it is whole when its last line says so."""


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when it is written to its end, or standard output. Raises Failed."""
    try:
        if path == STDOUT:
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
            return
        if path.exists() and not path.is_file():
            raise Failed(f"{path} is no file; - writes to standard output", Exit.USAGE)
        target = path.resolve()  # a link stays, and leads to what was written
        partial = target.with_name(target.name + ".partial")
        try:
            with partial.open("wb") as out:
                yield out
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
    except BrokenPipeError:
        raise  # who read it has gone, and says why
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}", Exit.ERROR) from error


def broken_off(path: Path, code: Exit) -> Failed:
    """What to raise where what was to be written there ended before its end."""
    left = "what was written is not whole" if path == STDOUT else "nothing was written"
    return Failed(f"the export was broken off; {left}", code)
