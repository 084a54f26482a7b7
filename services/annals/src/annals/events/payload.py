"""The base classes of event data, which has a class for each event type and version."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict


class EventData(BaseModel):
    """Base of the data classes: `class TaskCreated(EventData, type="task.created", version="1.0")`.

    Fields that a class does not know are kept.
    """

    # Data is stored by field name, so a field with an alias must also be read by its name.
    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, hide_input_in_errors=True)

    event_type: ClassVar[str] = ""
    event_version: ClassVar[str] = "1.0"

    def __init_subclass__(cls, *, type: str = "", version: str = "1.0", **kwargs: Any) -> None:  # noqa: A002
        super().__init_subclass__(**kwargs)
        cls.event_type = type
        cls.event_version = version


class UnknownEventData(EventData):
    """The data of an event whose type this code does not know; all of it is in the extras."""
