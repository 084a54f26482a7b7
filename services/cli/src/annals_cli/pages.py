"""How to see the page after the one that was shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from annals_cli.session import Session


def say_next(
    given: Session, path: str, parameters: Iterable[tuple[str, Any]], answer: Mapping[str, Any]
) -> None:
    """Tell the command that shows the next page of a query, if there is one."""
    if following := answer.get("next"):
        place = _place(following, answer["items"])
        kept = [(name, value) for name, value in parameters if value is not None and name != place]
        words = (f"{name}={value}" for name, value in [*kept, (place, following)])
        given.output.more(given.line("query", path, *words))


def _place(following: str | int, items: Sequence[Mapping[str, Any]]) -> str:
    """Return the parameter that says where the next page begins: `cursor`, or a version bound of a stream."""
    if isinstance(following, str):
        return "cursor"
    return "from" if following > items[-1]["version"] else "to"
