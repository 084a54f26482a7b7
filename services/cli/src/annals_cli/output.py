"""What is shown: tables and texts for people, JSON for programs.

Much of it others wrote: it is markup of no kind, and what would steer a terminal is shown as JSON writes it.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from rich.console import Console
from rich.highlighter import JSONHighlighter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

people = Console(markup=False, emoji=False, highlight=False)
notes = Console(stderr=True, markup=False, emoji=False, highlight=False)
"""Progress and hints, which are never part of an answer."""

Part = str | tuple[str, str]
"""A text, or one with its style."""

_JOINERS = "\u200c\u200d"
"""Persian and Indic words, and many emoji, are not written without them."""


def told(*parts: Part) -> Text:
    """One text of several."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((_visible(text), style) for text, style in pairs))


def _visible(text: str) -> str:
    """A text in whose lines nothing is hidden: no control characters, none that turn the order round."""
    return "".join(char if _is_shown(char) else json.dumps(char)[1:-1] for char in text)


def _is_shown(char: str) -> bool:
    # Of blanks Python takes ASCII's alone for printable: not those of Japanese and French.
    return char.isprintable() or char == "\n" or char in _JOINERS or unicodedata.category(char) == "Zs"


class Output:
    """Shows answers, `as_json` or for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def progress(self, task: str = "{task.description}", *, transient: bool = True) -> Progress:
        """A bar for each task, counted in commits; programs are shown none."""
        columns = (
            TextColumn(task),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("commits"),
            TimeRemainingColumn(),
        )
        return Progress(*columns, console=notes, transient=transient, disable=self.as_json)

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
            people.print(told((empty, "dim")))
            return
        table = Table(box=None, header_style="bold", pad_edge=False)
        for column in columns:
            numeric = all(isinstance(row.get(column), int | None) for row in rows)
            table.add_column(column, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(told(_cell(row.get(column))) for column in columns))
        people.print(table)

    def more(self, how: str) -> None:
        """That there may be more than was shown, and how to see it; programs have the whole answer."""
        if not self.as_json:
            notes.print(told(("there may be more: ", "yellow"), how), soft_wrap=True)

    def one(self, answer: Any) -> None:
        """One thing, whole."""
        if self.as_json:
            _dump(answer)
        else:
            people.print(JSONHighlighter()(told(_json(answer))), soft_wrap=True)

    def done(self, answer: Any, *parts: Part, aside: bool = False) -> None:
        """What was done, in a sentence; `aside` from standard output, which has what was asked for."""
        if self.as_json:
            _dump(answer, sys.stderr if aside else sys.stdout)
        else:
            (notes if aside else people).print(told(*parts), soft_wrap=True)

    def line(self, answer: Any, *parts: Part) -> None:
        """One of many, as they come: a line of JSON, or of text."""
        if self.as_json:
            sys.stdout.write(_visible(json.dumps(answer, ensure_ascii=False)) + "\n")
            sys.stdout.flush()
        else:
            people.print(told(*parts), soft_wrap=True)


def _dump(answer: Any, to: TextIO | None = None) -> None:
    (to or sys.stdout).write(_json(answer) + "\n")


def _json(answer: Any) -> str:
    return _visible(json.dumps(answer, indent=2, ensure_ascii=False))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return str(value).replace("\n", "\\n")
