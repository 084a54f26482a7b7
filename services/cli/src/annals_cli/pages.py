"""What follows the page that was shown."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from annals_cli.output import Output


def say_next(
    output: Output, path: str, parameters: Iterable[tuple[str, Any]], answer: Mapping[str, Any]
) -> None:
    """How the page that follows this one of a query is asked for, if one does."""
    if cursor := answer.get("next"):
        given = [(name, value) for name, value in parameters if value is not None and name != "cursor"]
        words = (f"{name}={value}" for name, value in [*given, ("cursor", cursor)])
        output.more(shlex.join(["annals", "query", path, *words]))
