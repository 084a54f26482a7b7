"""What every command is given: the sidecar, where its answer goes, and how the program was called."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import cast

import typer

from annals_cli.output import Output
from annals_cli.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Session:
    """See the module."""

    sidecar: Sidecar
    output: Output
    program: tuple[str, ...]
    """Its name, and those of its options that a further call must be given too."""

    def line(self, *words: str) -> str:
        """What to enter for something that follows, of the same suite and for the same tenant and user."""
        return shlex.join((*self.program, *words))


def session(context: typer.Context) -> Session:
    """The session of this run."""
    return cast("Session", context.obj)
