"""What follows the page that was shown."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from annals_cli.output import Output


def say_next(output: Output, path: str, parameters: Mapping[str, Any], answer: Mapping[str, Any]) -> None:
    """How the page that follows this one of a query is asked for, if one does."""
    if cursor := answer.get("next"):
        given = {**parameters, "cursor": cursor}
        words = (f"{name}={value}" for name, value in given.items() if value is not None)
        output.more(shlex.join(["annals", "query", path, *words]))
