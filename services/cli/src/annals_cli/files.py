"""Files that are there whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from annals_cli.sidecar import Exit, Failed


@contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name only when it is written to its end. Raises Failed."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as out:
            yield out
        partial.replace(path)
    except OSError as error:
        raise Failed(f"{path} cannot be written: {error.strerror}", Exit.ERROR) from error
    finally:
        partial.unlink(missing_ok=True)
