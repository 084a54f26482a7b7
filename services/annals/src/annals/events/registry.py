"""Finds the data class of an event by its type and version; upcasters bring old versions to the newest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from annals.events.envelope import DomainEvent, require_event_type, require_version
from annals.events.payload import EventData, UnknownEventData
from annals.events.upcasters import Upcaster

AnyDomainEvent = TypeVar("AnyDomainEvent", bound=DomainEvent)


class EventRegistry:
    """The data classes of a service: one for each event type, of its newest version.

    Raises ValueError if no event can have a type or version, if a type is registered twice, or if an upcaster
    does not lead to a registered class, directly or through others.
    """

    def __init__(self, classes: Iterable[type[EventData]], upcasters: Iterable[Upcaster] = ()) -> None:
        self._classes: dict[str, type[EventData]] = {}
        for cls in classes:
            if not cls.event_type:
                raise ValueError(f"{cls.__name__} names no event type")
            require_event_type(cls.event_type)
            require_version(cls.event_version)
            if self._classes.setdefault(cls.event_type, cls) is not cls:
                raise ValueError(f"{cls.event_type} is registered twice")
        self._upcasters: dict[tuple[str, str], Upcaster] = {}
        for upcaster in upcasters:
            require_version(upcaster.from_version)
            key = (upcaster.event_type, upcaster.from_version)
            if key in self._upcasters:
                raise ValueError(f"{key[0]} {key[1]} has two upcasters")
            self._upcasters[key] = upcaster
        for upcaster in self._upcasters.values():
            self._check(upcaster)

    @property
    def classes(self) -> Mapping[str, type[EventData]]:
        """The registered classes by event type."""
        return self._classes

    def decode(self, event: DomainEvent) -> EventData:
        """Return an event's data in its newest version, or as `UnknownEventData` if its type is unknown.

        Raises ValueError for an unknown version of a known type: a newer release wrote the event, and code
        that ignored it would decide without its data.
        """
        event = self.upcast(event)
        cls = self._classes.get(event.event_type)
        if cls is None:
            return UnknownEventData.model_validate(event.data)
        if cls.event_version != event.event_version:
            raise ValueError(
                f"{event.event_type} {event.event_version} is not known here: newest is {cls.event_version}"
            )
        return cls.model_validate(event.data)

    def upcast(self, event: AnyDomainEvent) -> AnyDomainEvent:
        """Return the event with its data and version as the newest code writes them."""
        version, data = event.event_version, event.data
        while (upcaster := self._upcasters.get((event.event_type, version))) is not None:
            version, data = upcaster.to_version, upcaster.upcast(dict(data))
        if version == event.event_version:
            return event
        return event.model_copy(update={"event_version": version, "data": data})

    def reads(self, event_type: str, version: str) -> bool:
        """Return whether an event of this version is brought to the version of its type's class."""
        while (upcaster := self._upcasters.get((event_type, version))) is not None:
            version = upcaster.to_version
        cls = self._classes.get(event_type)
        return cls is not None and cls.event_version == version

    def schemas(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of every registered class, by `type@version`."""
        return {
            f"{name}@{cls.event_version}": cls.model_json_schema(by_alias=False)
            for name, cls in sorted(self._classes.items())
        }

    def _check(self, upcaster: Upcaster) -> None:
        seen = {upcaster.from_version}
        version = upcaster.to_version
        while (following := self._upcasters.get((upcaster.event_type, version))) is not None:
            if version in seen:
                raise ValueError(f"the upcasters of {upcaster.event_type} form a cycle")
            seen.add(version)
            version = following.to_version
        cls = self._classes.get(upcaster.event_type)
        if cls is None or cls.event_version != version:
            raise ValueError(f"the upcasters of {upcaster.event_type} end at {version}, which has no class")
