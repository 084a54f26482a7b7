"""Keeps unreadable messages as they arrived, and reads them again when an operator releases them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import structlog

from annals.dapr import DaprError
from annals.deadletters.dead_letters import DeadLetters, DeadLettersUnknown
from annals.deadletters.index import TooManyParked, UnknownLetter
from annals.deadletters.letter import Kind, of_raw
from annals.events import is_tenant
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_CONSUMER = "messages"
_EVERY_SECONDS = 0.5

HandleMessage = Callable[[Any], Awaitable[None]]


class Unreadable:
    """Keeps unreadable messages, and hands them to `handle` when they are released.

    `handle` raises ValueError for a message that it still cannot read, and any other error if it cannot
    handle the message now.
    """

    def __init__(self, dead_letters: DeadLetters, handle: HandleMessage) -> None:
        self._dead_letters = dead_letters
        self._handle = handle

    async def keep(self, message: Any, reason: str) -> str:
        """Keep a message; return the status with which to answer the sidecar."""
        try:
            await self._dead_letters.park(*of_raw(_CONSUMER, _tenant(message), _text(message), reason))
        except (DaprError, DeadLettersUnknown, TooManyParked) as error:
            _log.warning("an unreadable message is not kept yet", error=str(error))
            return "RETRY"
        return "SUCCESS"

    async def run(self) -> None:
        """Read released messages again, until cancelled."""
        said = Said()
        while True:
            for letter in self._dead_letters.released():
                if letter.kind is Kind.RAW:
                    try:
                        await self._read_again(letter.tenant, letter.id)
                        said.is_over(letter.id)
                    except UnknownLetter:
                        continue  # another replica has handled it
                    except Exception as error:  # noqa: BLE001 - it stays released, and is tried again
                        if said.is_news(error, letter.id):
                            what = {"tenant": letter.tenant, "dead_letter": letter.id}
                            _log.warning("a released message cannot be handled now", **what, error=str(error))
            await asyncio.sleep(_EVERY_SECONDS)

    async def _read_again(self, tenant: str, letter_id: str) -> None:
        letter, detail = await self._dead_letters.get(tenant, letter_id)
        try:
            message = json.loads(detail.raw or "")
            if _tenant(message) != letter.tenant:
                # Whoever edits a text controls only what belongs to the tenant of the letter.
                raise ValueError("it is of another tenant")
            await self._handle(message)
        except (ValueError, RecursionError) as error:
            await self._dead_letters.park_again(letter, str(error))
        else:
            await self._dead_letters.done(letter)


def _tenant(message: Any) -> str:
    """Return the tenant that the message is of, and whose operators see it.

    An impossible name would hide it from everybody. A message without one is of the tenant that its event
    would be of.
    """
    data = message.get("data") if isinstance(message, dict) else None
    tenant = data.get("tenant_id") if isinstance(data, dict) else None
    return tenant if isinstance(tenant, str) and is_tenant(tenant) else "default"


def _text(message: Any) -> str:
    if isinstance(message, str):
        return message
    try:
        # Escaped, a letter of two bytes would take seven in the store. What was nested deeply has decimals.
        return json.dumps(message, ensure_ascii=False, default=float)
    except RecursionError:
        return "nested too deeply to be kept"
