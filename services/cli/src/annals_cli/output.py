"""Output: tables and texts for people, JSON for programs.

Other people wrote much of what is shown. So no text is read as markup, and characters that would control a
terminal are shown as JSON escapes.
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
"""Zero-width joiners, without which Persian and Indic words and many emoji cannot be written."""


def told(*parts: Part) -> Text:
    """Join parts into one text that is safe to show."""
    pairs = ((part, "") if isinstance(part, str) else part for part in parts)
    return Text.assemble(*((_visible(text), style) for text, style in pairs))


def _visible(text: str) -> str:
    """Escape what could hide a part of a text: control characters, and those that reverse its direction."""
    return "".join(char if _is_shown(char) else json.dumps(char)[1:-1] for char in text)


def _is_shown(char: str) -> bool:
    # Python takes only ASCII's space for printable, not the spaces of Japanese and French (category Zs).
    return char.isprintable() or char == "\n" or char in _JOINERS or unicodedata.category(char) == "Zs"


def say_waiting(why: object) -> None:
    """Tell why the program waits, whatever form its answers have."""
    notes.print(told(("waiting: ", "yellow"), str(why)), soft_wrap=True)


class Output:
    """Shows answers: as JSON for programs if `as_json`, otherwise for people."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def progress(self, task: str = "{task.description}", *, transient: bool = True) -> Progress:
        """Return a progress display with a bar for each task, in commits; with JSON it shows nothing."""
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
        """Show people some columns of the rows, and programs the whole answer."""
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
        """Tell people that there may be more, and how to see it; programs have the whole answer."""
        if not self.as_json:
            notes.print(told(("there may be more: ", "yellow"), how), soft_wrap=True)

    def one(self, answer: Any) -> None:
        """Show one answer as a whole."""
        if self.as_json:
            _dump(answer)
        else:
            people.print(JSONHighlighter()(told(_json(answer))), soft_wrap=True)

    def done(self, answer: Any, *parts: Part, aside: bool = False) -> None:
        """Report what was done; with `aside`, on standard error, as the data itself is on standard output."""
        if self.as_json:
            _dump(answer, sys.stderr if aside else sys.stdout)
        else:
            (notes if aside else people).print(told(*parts), soft_wrap=True)

    def line(self, answer: Any, *parts: Part) -> None:
        """Show one item of a stream, as a line of JSON or of text."""
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
