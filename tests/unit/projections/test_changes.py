from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from annals.projections import Change, Delete, Patch, Put, fold, merge

rows = st.dictionaries(st.sampled_from("abc"), st.integers(0, 3), max_size=3)
changes = st.one_of(rows.map(Put), rows.map(Patch), st.just(Delete()))


@given(st.lists(changes, max_size=6), st.lists(changes, min_size=1, max_size=6))
def test_merged_changes_leave_what_they_would_one_by_one(before: list[Change], batch: list[Change]) -> None:
    merged = batch[0]
    for change in batch[1:]:
        merged = merge(merged, change)
    assert fold([*before, merged]) == fold([*before, *batch])
