"""The live stream of events, as Server-Sent Events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from annals_cli.lines import lines
from annals_cli.output import say_waiting
from annals_cli.sidecar import Exit, Failed, Sidecar

_AGAIN_SECONDS = 1.0  # before a stream is opened again


def events(
    sidecar: Sidecar, after: str | None, **filters: Any
) -> Iterator[tuple[str | None, dict[str, Any]]]:
    """Yield events without end: a stream that ends or is cut is opened again at the place it had reached.

    While it cannot be opened again, people are told why.

    Each event comes with the id of that place, to go on from after it. Only the last event of a commit moves
    it on, so after another one, the whole commit comes again.

    Raises Failed if the stream cannot be opened at first, or is refused later.
    """
    begun = silent = False
    while True:
        try:
            with sidecar.stream("notification", "stream", after=after, **filters) as answer:
                for reached, kind, data in _messages(lines(answer.iter_bytes())):
                    begun, silent, after = True, False, reached or after
                    if kind == "cut":
                        break
                    if kind == "message" and data:
                        yield after, json.loads(data)
        except Failed as failed:
            if not begun or failed.code is not Exit.UNAVAILABLE:
                raise
            if not silent:
                say_waiting(failed)
            silent = True
        time.sleep(_AGAIN_SECONDS)


def _messages(stream: Iterator[bytes]) -> Iterator[tuple[str, str, str]]:
    """Yield each message's id, if any, its kind and its data. A heartbeat has no data, or another kind."""
    fields: dict[str, str] = {}
    for line in stream:
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            yield fields.get("id", ""), fields.get("event", "message"), fields.get("data", "")
            fields = {}
