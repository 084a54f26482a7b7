"""Data cut into parts is complete and in order, and no part is larger than it has to be."""

from __future__ import annotations

import pytest

from annals.dapr.parts import parts


@pytest.mark.parametrize(
    ("sizes", "cut"),
    [
        ([], []),
        ([4, 4, 2], [[4, 4, 2]]),
        ([4, 4, 3], [[4, 4], [3]]),
        ([1, 11, 1, 1], [[1], [11], [1, 1]]),
        ([11, 12], [[11], [12]]),
        ([1, 2, 3, 4], [[1, 2, 3], [4]]),
    ],
    ids=["none", "fits", "too many bytes", "one too large", "all too large", "too many"],
)
def test_parts_hold_as_much_as_they_may_and_alone_what_is_larger(
    sizes: list[int], cut: list[list[int]]
) -> None:
    assert parts(sizes, lambda size: size, 10, 3) == cut
