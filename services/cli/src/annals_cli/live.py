"""The live stream of what happens: Server-Sent Events."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

from annals_cli.lines import lines
from annals_cli.sidecar import Exit, Failed, Sidecar

_AGAIN_SECONDS = 1.0


def events(sidecar: Sidecar, after: str | None, **filters: Any) -> Iterator[dict[str, Any]]:
    """Events, for ever: a stream that ends, or is cut, is taken up again where it was.

    Raises Failed where it cannot be had at first, or is refused later.
    """
    begun = False
    while True:
        try:
            with sidecar.stream("notification", "stream", after=after, **filters) as answer:
                for reached, kind, data in _messages(lines(answer.iter_bytes())):
                    begun, after = True, reached or after
                    if kind == "cut":
                        break
                    if kind == "message" and data:
                        yield json.loads(data)
        except Failed as failed:
            if not begun or failed.code is not Exit.UNAVAILABLE:
                raise
        time.sleep(_AGAIN_SECONDS)


def _messages(stream: Iterator[bytes]) -> Iterator[tuple[str, str, str]]:
    """Each message's id, if it has one, its kind and its data. A heartbeat has none, or another kind."""
    fields: dict[str, str] = {}
    for line in stream:
        text = line.decode().rstrip("\r\n")
        if text:
            name, _, value = text.partition(":")
            fields[name] = value.removeprefix(" ")
        else:
            yield fields.get("id", ""), fields.get("event", "message"), fields.get("data", "")
            fields = {}
