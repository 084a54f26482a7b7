"""What `make check` says of the schemas in docs/events."""

from __future__ import annotations

from pathlib import Path

import pytest

import event_schemas
from annals.events import EventData, EventRegistry, Upcaster


class Placed(EventData, type="order.placed", version="2.0"):
    items: tuple[str, ...]


@pytest.fixture(autouse=True)
def released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release before this code had two events, `order.placed` in its version 1.0."""
    monkeypatch.setattr(event_schemas, "DIRECTORY", tmp_path)
    for name in ("order.placed@1.0.json", "order.cancelled@1.0.json"):
        (tmp_path / name).write_text("{}")


class Cancelled(EventData, type="order.cancelled"):
    pass


@pytest.mark.parametrize(
    ("classes", "upcasters", "unread"),
    [
        ((Placed, Cancelled), (Upcaster("order.placed", "1.0", "2.0", dict),), []),
        ((Placed, Cancelled), (), ["order.placed@1.0"]),
        ((Placed, Cancelled), (Upcaster("order.placed", "1.1", "2.0", dict),), ["order.placed@1.0"]),
        ((Placed,), (Upcaster("order.placed", "1.0", "2.0", dict),), ["order.cancelled@1.0"]),
    ],
)
def test_an_event_of_before_that_nothing_reads_is_found(
    classes: tuple[type[EventData], ...],
    upcasters: tuple[Upcaster, ...],
    unread: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(event_schemas, "DOMAIN_EVENTS", EventRegistry(classes, upcasters))
    event_schemas.write()
    capsys.readouterr()

    failed = event_schemas.check()

    said = capsys.readouterr().out.splitlines()
    assert [line.split(".json")[0] for line in said] == unread
    assert failed == bool(unread)
