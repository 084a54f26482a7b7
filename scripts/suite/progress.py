"""Shows the progress of slow steps: a spinner on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

console = Console(stderr=True)


@contextmanager
def step(what: str) -> Iterator[None]:
    """Show that the step in this block is under way, and for how long."""
    if not console.is_terminal:
        console.print(f"{what} ...", highlight=False)
        started = time.monotonic()
        yield
        console.print(f"{what}: {time.monotonic() - started:.0f} s", highlight=False)
        return
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as progress:
        progress.add_task(what, total=None)
        yield
