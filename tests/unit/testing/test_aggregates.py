from __future__ import annotations

from typing import Annotated, ClassVar, Self

import pytest
from pydantic import Field, PrivateAttr

from annals.aggregates import Aggregate
from annals.events import EventData
from annals.testing import given


class Withdrawn(EventData, type="account.withdrawn"):
    cents: int
    reference: str = Field(alias="orderNo", default="")


class Account(Aggregate):
    aggregate_type: ClassVar[str] = "account"

    balance: Annotated[int, Field(ge=0)] = 10
    reference: str = Field(alias="orderNo", default="")
    _seen: int = PrivateAttr(default=0)

    def apply(self, event: EventData) -> Self:
        match event:
            case Withdrawn():
                left = {"balance": self.balance - event.cents, "reference": event.reference}
                after = self.model_copy(update=left)
                after._seen = self._seen + 1
                return after
            case _:
                return self


class Paired(Account):
    by_pair: dict[tuple[str, str], int] = Field(default_factory=lambda: {("a", "b"): 1})


def test_a_state_that_cannot_be_read_again_is_found_out() -> None:
    with pytest.raises(AssertionError, match=r"(?s)the state of Account after account\.withdrawn .*balance"):
        given(Account).when(lambda _: Withdrawn(cents=11, orderNo=""))
    with pytest.raises(AssertionError, match=r"(?s)the state of Account after account\.withdrawn .*balance"):
        given(Account, Withdrawn(cents=11, orderNo=""))
    with pytest.raises(AssertionError, match="the state of Paired"):
        given(Paired, Withdrawn(cents=1, orderNo=""))


@pytest.mark.parametrize("cents", [2**53, 2**70])
def test_an_event_that_cannot_be_stored_is_found_out(cents: int) -> None:
    with pytest.raises(AssertionError, match=r"account\.withdrawn cannot be stored"):
        given(Account, Withdrawn(cents=-cents, orderNo=""))


def test_what_is_not_stored_is_not_there_afterwards() -> None:
    assert given(Account, Withdrawn(cents=1, orderNo="")).state._seen == 0


def test_a_decision_of_nothing_is_none() -> None:
    with pytest.raises(TypeError, match="at least one event, or a RuleViolation"):
        given(Account).when(lambda _: ())


def test_a_field_with_an_alias_is_read_as_it_was_stored() -> None:
    account = given(Account, Withdrawn(cents=1, orderNo="7"))
    assert account.state.reference == "7"
