"""The settings with which the command service refuses to start."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from annals_command.settings import CommandSettings


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("IDEMPOTENCY_DAYS", "-1"),  # no store accepts it
        ("IDEMPOTENCY_DAYS", "0"),  # a store keeps permanently what should expire at once
        ("IDEMPOTENCY_DAYS", "36500"),  # more seconds than Dapr accepts
        ("APPEND_DEADLINE", "0"),  # every command would be late
    ],
)
def test_what_no_command_could_be_written_with_is_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, value: str
) -> None:
    monkeypatch.setenv(f"ANNALS_{setting}", value)
    with pytest.raises(ValidationError, match=setting.lower()):
        CommandSettings()
