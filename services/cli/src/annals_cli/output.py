"""What is shown: tables and texts for people, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.json import JSON
from rich.table import Table

people = Console()
notes = Console(stderr=True)
"""Progress and hints, which are never part of an answer."""


class Output:
    """Shows answers, `as_json` or for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def table(
        self,
        answer: Any,
        rows: Sequence[Mapping[str, Any]],
        columns: Sequence[str],
        *,
        empty: str = "nothing",
    ) -> None:
        """Rows, of which people see some columns; programs get the whole answer."""
        if self.as_json:
            _dump(answer)
            return
        if not rows:
            people.print(f"[dim]{empty}[/dim]")
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            numeric = all(isinstance(row.get(column), int | None) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(row.get(column)) for column in columns))
        people.print(table)

    def one(self, answer: Any) -> None:
        """One thing, whole."""
        if self.as_json:
            _dump(answer)
        else:
            people.print(JSON.from_data(answer))

    def done(self, answer: Any, text: str) -> None:
        """What was done, in a sentence."""
        if self.as_json:
            _dump(answer)
        else:
            people.print(text, highlight=False)

    def line(self, answer: Any, text: str) -> None:
        """One of many, as they come: a line of JSON, or of text."""
        if self.as_json:
            sys.stdout.write(json.dumps(answer, ensure_ascii=False) + "\n")
            sys.stdout.flush()
        else:
            people.print(text, highlight=False, soft_wrap=True)


def _dump(answer: Any) -> None:
    json.dump(answer, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
