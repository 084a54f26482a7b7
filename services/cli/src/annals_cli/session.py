"""The session that every command gets: the sidecar, the output, and how the program was called."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import typer

from annals_cli.output import Output
from annals_cli.sidecar import Sidecar


@dataclass(frozen=True, slots=True)
class Session:
    """One run of the program: its sidecar, its output, and how it was called."""

    sidecar: Sidecar
    output: Output
    options: Mapping[str, str]
    """The options that a further call must repeat."""

    def line(self, *words: str, **others: str) -> str:
        """Return the command line of a further call, for the same suite, tenant and user, or for `others`."""
        options = {**self.options, **others}
        given = (word for name, value in options.items() for word in (f"--{name}", value))
        return shlex.join(("annals", *given, *words))


def session(context: typer.Context) -> Session:
    """Return the session of this run."""
    return cast("Session", context.obj)
