"""What every command is given: the sidecar, and where its answer goes."""

from __future__ import annotations

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


def session(context: typer.Context) -> Session:
    """The session of this run."""
    return cast("Session", context.obj)
