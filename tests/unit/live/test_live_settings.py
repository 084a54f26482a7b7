"""A service's live settings before anybody sets one, and how texts become values."""

from __future__ import annotations

import logging

import grpc
import pytest
from pydantic import ValidationError

from annals.dapr import Configuration, ConfigurationItem, DaprError, DaprSidecar, SidecarUnavailable
from annals.live import Live, LiveSettings, NoSuchSetting, SettingRefused
from annals_command.settings import CommandLive, CommandSettings
from annals_notification.settings import NotificationLive, NotificationSettings
from annals_projector.settings import ProjectorLive, ProjectorSettings
from annals_saga_orchestrator.settings import SagaLive, SagaSettings


@pytest.fixture
async def live() -> LiveSettings[CommandLive]:
    return LiveSettings("saga-orchestrator", CommandLive(), Configuration(DaprSidecar(1), "settings"))


def test_the_environment_gives_the_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANNALS_MAX_BACKLOG", "5")
    monkeypatch.setenv("ANNALS_LOG_LEVEL", "warning")
    assert CommandSettings().live(CommandLive) == CommandLive(max_backlog=5, log_level="warning")


@pytest.mark.parametrize("seconds", ["0", "300"])
def test_a_lane_that_the_projector_would_call_late_each_time_is_not_asked_for(
    seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANNALS_CHECKPOINT_SECONDS", "240")
    assert CommandSettings().checkpoint_seconds == 240
    monkeypatch.setenv("ANNALS_CHECKPOINT_SECONDS", seconds)
    with pytest.raises(ValidationError, match="checkpoint_seconds"):
        CommandSettings()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (CommandLive, CommandSettings),
        (NotificationLive, NotificationSettings),
        (ProjectorLive, ProjectorSettings),
        (SagaLive, SagaSettings),
    ],
)
def test_each_says_what_it_is_and_has_a_default(model: type[Live], settings: type) -> None:
    assert all(field.description and not field.is_required() for field in model.model_fields.values())
    assert settings().live(model) == model()


async def test_texts_become_values_of_the_settings_type(live: LiveSettings[CommandLive]) -> None:
    assert live.parse("read_only", "true") is True
    assert live.parse("max_backlog", "12") == 12
    with pytest.raises(SettingRefused, match="valid integer"):
        live.parse("max_backlog", "1e")
    with pytest.raises(SettingRefused, match="greater than or equal to 0"):
        live.parse("max_backlog", "-1")
    with pytest.raises(SettingRefused, match="debug"):
        live.parse("log_level", "loud")


async def test_a_key_is_the_services_name_as_every_store_takes_it(live: LiveSettings[CommandLive]) -> None:
    assert live.key("read_only") == "saga_orchestrator.read_only"
    with pytest.raises(NoSuchSetting) as refused:
        live.key("readonly")
    assert "read_only" in refused.value.known


async def test_the_suite_is_read_only_as_the_environment_says_until_somebody_sets_it() -> None:
    live = LiveSettings("s", SagaLive(), Configuration(DaprSidecar(1), "settings"), read_only=True)
    assert live.read_only
    live._take({})
    assert live.read_only
    live._take({"command.read_only": ConfigurationItem("false", "1", {})})
    assert not live.read_only


async def test_a_suite_that_is_read_only_stays_so_when_the_value_is_damaged() -> None:
    live = LiveSettings("s", SagaLive(), Configuration(DaprSidecar(1), "settings"))
    for value, read_only in (("nonsense", False), ("true", True), ("nonsense", True), ("false", False)):
        live._take({"command.read_only": ConfigurationItem(value, "1", {})})
        assert live.read_only == read_only


async def test_a_store_has_been_asked_once_it_answers_and_not_while_the_sidecar_is_away() -> None:
    """Until then nobody knows whether the suite is read-only, and nothing is written."""
    live = LiveSettings("s", SagaLive(), Configuration(DaprSidecar(1), "settings"))
    live._fail(SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, "away"))
    assert (live.asked.is_set(), live.unreached) == (False, "UNAVAILABLE: away")
    live._fail(DaprError(grpc.StatusCode.INTERNAL, "no database"))
    assert (live.asked.is_set(), live.unreached) == (True, "INTERNAL: no database")
    live._take({})
    assert live.unreached is None


async def test_a_log_level_that_is_set_is_the_level_of_the_log() -> None:
    live = LiveSettings("s", SagaLive(), Configuration(DaprSidecar(1), "settings"))
    before = logging.getLogger().level
    try:
        for level in ("debug", "error"):
            live._take({"s.log_level": ConfigurationItem(level, "1", {})})
            assert logging.getLogger().level == logging.getLevelName(level.upper())
    finally:
        logging.getLogger().setLevel(before)
