"""The `/settings` routes: operators read and change a service's live settings."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from annals.dapr import Database, DatabaseError
from annals.live import LiveSettings, NoSuchSetting, SettingRefused
from annals.live.settings import Setting
from annals.web.answers import Answer
from annals.web.problems import Problem, malformed, unavailable
from annals.web.request_body import Reason, Text
from annals.web.request_context import id_of

_SET = "SELECT to_json(annals_set($1::text, $2::text, $3::text, $4::text))::text"


class Change(BaseModel):
    """The value to set, as text, or null to restore the default. Value and reason stay in the history."""

    model_config = ConfigDict(extra="forbid")

    value: Text | None = Field(max_length=1_000)
    reason: Reason


class SettingsNow(Answer):
    """The live settings of one replica."""

    unreached: str | None
    """Why the settings cannot be read now, in which case the last known values apply; null if they can."""
    items: list[Setting]


class Changed(Answer):
    """The setting that was changed, and its new version."""

    key: str
    version: int


def routes(live: LiveSettings[Any], writer: Database) -> APIRouter:
    """Return the `/settings` router. `writer` is a binding because Dapr's configuration API is read-only."""
    router = APIRouter(prefix="/settings", tags=["settings"])

    @router.get("", summary="List the live settings, as they are now in this replica")
    async def listing() -> SettingsNow:
        return SettingsNow(unreached=live.unreached, items=live.describe())

    @router.put("/{name}", status_code=202, summary="Set a live setting, or restore its default")
    async def change(request: Request, name: str, body: Change) -> Changed:
        """Every replica applies the change without a restart, at once or within a few seconds."""
        try:
            key = live.key(name)
            if body.value is not None:
                live.parse(name, body.value)
        except NoSuchSetting as error:
            raise Problem(404, "not-found", str(error), known=error.known) from error
        except SettingRefused as error:
            raise malformed("value", str(error)) from error
        try:
            version = await writer.fetch(_SET, key, body.value, id_of(request, "x-user-id"), body.reason)
        except DatabaseError as error:
            raise unavailable(f"it is not known whether the setting was changed: {error}") from error
        return Changed(key=key, version=version)

    return router
