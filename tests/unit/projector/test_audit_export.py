"""An export of the audit trail is opened in spreadsheets."""

from __future__ import annotations

import csv
import io

import pytest

from annals_projector.queries.audit import _csv_lines


@pytest.mark.parametrize("cell", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_is_a_formula(cell: str) -> None:
    ((read,),) = csv.reader(io.StringIO(_csv_lines([[cell]]).decode(), newline=""))
    assert read == f"'{cell}"
