"""What an operator may give as the reason for a rebuild."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from annals_projector.projections_api import Rebuild


def test_a_reason_may_hold_apostrophes() -> None:
    assert Rebuild(reason="it isn't right").reason == "it isn't right"


@pytest.mark.parametrize("reason", ["", "$create$", "a\\b", "a\x00b", "a" * 201])
def test_no_reason_ends_the_statement_that_it_is_in(reason: str) -> None:
    with pytest.raises(ValidationError):
        Rebuild(reason=reason)
