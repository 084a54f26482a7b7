"""A service's live settings: values from the environment, overridden by the configuration store.

The current settings are a frozen model. Each change in the store replaces it with a new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Literal, NoReturn, TypeVar

import structlog
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from annals.dapr import Configuration, ConfigurationItem, DaprError, SidecarUnavailable
from annals.telemetry import logs

_log = structlog.get_logger(__name__)

_READ_ONLY = "command.read_only"
_BOOL = TypeAdapter(bool)


class Live(BaseModel):
    """The live settings of every service. A service's own model adds to them.

    Each field is a plain value with a type, a default and a docstring. It is also a setting of the
    environment, which applies while no value is set in the store.
    """

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """The lowest level that is logged: debug, info, warning or error."""


S = TypeVar("S", bound=Live)


class NoSuchSetting(Exception):
    """The service has no live setting of that name; `known` lists the names that it has."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"there is no live setting {name}")
        self.known = known


class SettingRefused(Exception):
    """A value is not valid for its setting; the text says what was expected."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A live setting as it is now. `by`, `why` and `at` say who set it, why and when, as far as known."""

    key: str
    value: Any
    default: Any
    about: str
    set: bool = False
    by: str | None = None
    why: str | None = None
    at: str | None = None
    refused: str | None = None
    """Why the value that the store holds is not in effect."""


class LiveSettings(Generic[S]):
    """The live settings of a service. `run` keeps `current` up to date."""

    def __init__(
        self, service: str, defaults: S, configuration: Configuration, *, read_only: bool = False
    ) -> None:
        self.current = defaults
        self.asked = asyncio.Event()
        """Set once the store has answered, even with an error. Until then, the live values are unknown."""
        self.read_only = self._read_only = read_only
        """The value of `command.read_only`: other services that write to the event store respect it, too.

        While it is not set, the value from this service's environment applies.
        """
        self.unreached: str | None = "it has not been asked yet"
        self._defaults = defaults
        self._configuration = configuration
        # The PostgreSQL component accepts no hyphen in a key.
        self._prefix = service.replace("-", "_") + "."
        self._items: Mapping[str, ConfigurationItem] = {}
        self._refused: dict[str, tuple[str, str]] = {}

    async def run(self) -> NoReturn:
        """Follow the store until cancelled. While it cannot be read, all settings stay as they are."""
        await self._configuration.follow(self._take, self._fail)

    def key(self, name: str) -> str:
        """Return the key of a setting in the store. Raises NoSuchSetting."""
        known = list(type(self._defaults).model_fields)
        if name not in known:
            raise NoSuchSetting(name, known)
        return self._prefix + name

    def parse(self, name: str, value: str) -> Any:
        """Return a setting's value from its text. Raises NoSuchSetting and SettingRefused."""
        self.key(name)
        try:
            parsed = type(self._defaults).model_validate_strings({name: value})
        except ValidationError as error:
            raise SettingRefused(error.errors()[0]["msg"]) from error
        return getattr(parsed, name)

    def describe(self) -> list[Setting]:
        """Return all settings as they are now, and what the store has under unknown names."""
        found = [self._describe(name) for name in type(self._defaults).model_fields]
        unknown = self._refused.keys() - {one.key for one in found}
        return found + [
            Setting(key, None, None, "", set=True, refused=self._refused[key][1]) for key in sorted(unknown)
        ]

    def _describe(self, name: str) -> Setting:
        key = self._prefix + name
        item = self._items.get(key, ConfigurationItem(""))
        return Setting(
            key,
            getattr(self.current, name),
            getattr(self._defaults, name),
            type(self._defaults).model_fields[name].description or "",
            key in self._items,
            by=item.metadata.get("by"),
            why=item.metadata.get("why"),
            at=item.metadata.get("at"),
            refused=self._refused.get(key, (None, None))[1],
        )

    def _take(self, items: Mapping[str, ConfigurationItem]) -> None:
        mine = {key: item for key, item in items.items() if key.startswith(self._prefix)}
        # An item marked `unset` was taken back; it stays in the store for the history of its key.
        self._items = {key: item for key, item in mine.items() if "unset" not in item.metadata}
        refused: dict[str, tuple[str, str]] = {}
        values = {}
        for key, item in self._items.items():
            name = key.removeprefix(self._prefix)
            try:
                values[name] = self.parse(name, item.value)
            except NoSuchSetting as error:
                refused[key] = (item.value, f"{error}; there are {', '.join(error.known)}")
            except SettingRefused as error:
                refused[key] = (item.value, str(error))
                values[name] = getattr(self.current, name)
        for key, (value, expected) in refused.items():
            if self._refused.get(key) != (value, expected):
                _log.error(
                    "a live setting is refused, and stays as it was", key=key, value=value, expected=expected
                )
        self._refused = refused
        self.read_only = self._is_read_only(items)
        self._use(self._defaults.model_copy(update=values))
        self.unreached = None
        self.asked.set()

    def _is_read_only(self, items: Mapping[str, ConfigurationItem]) -> bool:
        item = items.get(_READ_ONLY)
        if item is None or "unset" in item.metadata:
            return self._read_only
        try:
            return _BOOL.validate_strings(item.value)
        except ValidationError:  # `command`, whose setting it is, logs the error
            return self.read_only

    def _use(self, settings: S) -> None:
        if settings == self.current:
            return
        before = self.current.model_dump()
        changed = {name: value for name, value in settings.model_dump().items() if value != before[name]}
        _log.warning("live settings changed", **changed)
        self.current = settings
        logs.set_level(settings.log_level)

    def _fail(self, error: DaprError) -> None:
        if str(error) != self.unreached:
            _log.warning("the live settings cannot be read: they stay as they are", error=str(error))
        self.unreached = str(error)
        if not isinstance(error, SidecarUnavailable):
            self.asked.set()
