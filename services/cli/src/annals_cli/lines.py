"""Lines from bytes that arrive in chunks."""

from __future__ import annotations

from collections.abc import Iterator


def lines(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Yield whole lines with their line ends. A last line without one is dropped: the answer broke off in it.

    httpx's `iter_lines` would also split a line at other separators that a text may contain.
    """
    rest: list[bytes] = []
    for chunk in chunks:
        head, newline, tail = chunk.partition(b"\n")
        while newline:
            yield b"".join((*rest, head, newline))
            rest = []
            head, newline, tail = tail.partition(b"\n")
        rest.append(head)
