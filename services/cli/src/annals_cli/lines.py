"""Lines of bytes that come in pieces."""

from __future__ import annotations

from collections.abc import Iterator


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Whole lines, with their ends: half a line is where an answer broke off, and says nothing.

    httpx's own would split a text at other line ends too.
    """
    rest: list[bytes] = []
    for chunk in chunks:
        head, newline, tail = chunk.partition(b"\n")
        while newline:
            yield b"".join((*rest, head, newline))
            rest = []
            head, newline, tail = tail.partition(b"\n")
        rest.append(head)
