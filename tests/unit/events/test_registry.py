from __future__ import annotations

from typing import Any

import pytest
from pydantic import Field

from annals.events import DomainEvent, EventData, EventRegistry, UnknownEventData, Upcaster
from annals.events.compatibility import incompatibilities


class Renamed(EventData, type="thing.renamed", version="2.0"):
    first: str
    last: str


def split(data: dict[str, Any]) -> dict[str, Any]:
    first, _, last = data.pop("name").partition(" ")
    return data | {"first": first, "last": last}


def rename(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"name": data.pop("title")}


UPCASTERS = [
    Upcaster("thing.renamed", "1.0", "1.1", rename),
    Upcaster("thing.renamed", "1.1", "2.0", split),
]


def stored(version: str, data: dict[str, Any], event_type: str = "thing.renamed") -> DomainEvent:
    return DomainEvent(
        event_type=event_type,
        event_version=version,
        source="test",
        aggregate_type="thing",
        aggregate_id="1",
        data=data,
    )


def test_an_old_event_is_read_through_the_whole_chain() -> None:
    registry = EventRegistry([Renamed], UPCASTERS)
    old = stored("1.0", {"title": "Ada Lovelace", "extra": 1})

    data = registry.decode(old)

    assert data == Renamed.model_validate({"first": "Ada", "last": "Lovelace", "extra": 1})
    assert old.data == {"title": "Ada Lovelace", "extra": 1}


def test_a_field_is_stored_under_its_name_and_not_under_its_alias() -> None:
    class Numbered(EventData, type="thing.numbered"):
        order_no: str = Field(alias="orderNo")

    registry = EventRegistry([Numbered])
    said = Numbered(orderNo="7")
    assert registry.decode(stored("1.0", said.model_dump(mode="json"), "thing.numbered")) == said
    assert list(registry.schemas()["thing.numbered@1.0"]["properties"]) == ["order_no"]


def test_an_event_of_an_unknown_type_is_carried() -> None:
    data = EventRegistry([Renamed], UPCASTERS).decode(stored("1.0", {"who": "knows"}, "thing.unheard_of"))
    assert isinstance(data, UnknownEventData)
    assert data.model_extra == {"who": "knows"}


def test_a_version_that_is_not_known_of_a_type_that_is_is_not_taken_for_nothing() -> None:
    with pytest.raises(ValueError, match=r"thing\.renamed 9\.0 is not known here"):
        EventRegistry([Renamed], UPCASTERS).decode(stored("9.0", {"who": "knows"}))


@pytest.mark.parametrize(
    ("upcasters", "reason"),
    [
        (UPCASTERS[:1], "no class"),
        ([*UPCASTERS, UPCASTERS[0]], "two upcasters"),
        ([UPCASTERS[0], Upcaster("thing.renamed", "1.1", "1.0", split)], "cycle"),
        ([Upcaster("thing.other", "1.0", "2.0", split)], "no class"),
    ],
)
def test_a_chain_that_leads_nowhere_is_refused(upcasters: list[Upcaster], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        EventRegistry([Renamed], upcasters)


@pytest.mark.parametrize("name", ["Thing.Renamed", "thingRenamed", "thing.re-named"])
def test_a_type_that_no_event_is_stored_under_is_refused(name: str) -> None:
    class Misnamed(EventData, type=name):
        pass

    with pytest.raises(ValueError, match=f"'{name}' is not a type such as"):
        EventRegistry([Misnamed])


@pytest.mark.parametrize("version", ["2", "v2.0", "2.0.1", ""])
def test_a_version_that_no_event_is_stored_under_is_refused(version: str) -> None:
    class Misnumbered(EventData, type="thing.numbered", version=version):
        pass

    class Numbered(EventData, type="thing.numbered", version="2.0"):
        pass

    for classes, upcasters in (
        ([Misnumbered], []),
        ([Numbered], [Upcaster("thing.numbered", version, "2.0", dict)]),
    ):
        with pytest.raises(ValueError, match=f"'{version}' is not a version such as 1.0"):
            EventRegistry(classes, upcasters)


class Before(EventData, type="a.b"):
    kept: str
    optional: int | None = None


class Widened(EventData, type="a.b"):
    kept: str
    optional: int | str | None = None
    added: str = ""


class Narrowed(EventData, type="a.b"):
    kept: int
    added: str


@pytest.mark.parametrize(
    ("after", "breaks"),
    [
        (Before, []),
        (Widened, []),
        (Narrowed, ["kept changed its type", "optional is gone", "added is required now"]),
    ],
)
def test_incompatible_changes_are_found(after: type[EventData], breaks: list[str]) -> None:
    assert incompatibilities(Before.model_json_schema(), after.model_json_schema()) == breaks
