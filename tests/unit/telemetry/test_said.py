from __future__ import annotations

import pytest

from annals.telemetry import said
from annals.telemetry.said import Said


def test_what_lasts_is_said_once_and_again_when_it_comes_back() -> None:
    told = Said()
    assert [told.is_news(text) for text in ("away", "away", "full", "full", "away")] == [
        True,
        False,
        True,
        False,
        True,
    ]
    told.is_over()
    assert told.is_news("away")


def test_each_thing_has_its_own_news_and_the_oldest_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(said, "_MOST", 2)
    told = Said()
    assert [told.is_news("away", lane) for lane in (1, 2, 1, 3, 1)] == [True, True, False, True, False]
    assert told.is_news("away", 2)
