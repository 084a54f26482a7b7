"""What is sent, and what cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, cast

from annals.web.background import background
from annals_notification.deliveries.dispatcher import Dispatcher
from annals_notification.deliveries.log import Claimed, Ended
from annals_notification.deliveries.preferences import Channel, Preferences
from conftest import until

_WANTS = Preferences(email="ada@example.org")


def claimed(name: str, user: str) -> Claimed:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    return Claimed(name, "default", user, Channel.EMAIL, "task.assigned", {}, now, 1, None, _WANTS)


class Deliveries:
    """A delivery log at hand."""

    def __init__(self, *waiting: Claimed) -> None:
        self.waiting = list(waiting)
        self.ended: dict[str, str] = {}

    async def claim(self, _limit: int) -> list[Claimed]:
        taken, self.waiting = self.waiting, []
        return taken

    async def end(self, ended: Sequence[Ended]) -> None:
        self.ended |= {one.claimed.id: one.status for one in ended}

    async def next_due(self) -> datetime | None:
        return None


class Mails:
    """Sends all but what is odd."""

    async def send(self, _address: str, group: Sequence[Claimed]) -> str:
        if "odd" in {one.id for one in group}:
            raise KeyError("no such word")
        return "sent"


async def test_a_notice_that_cannot_be_put_into_words_holds_up_no_other() -> None:
    """Neither those of others, nor those that the same e-mail was to tell of."""
    log = Deliveries(claimed("odd", "ada"), claimed("beside it", "ada"), claimed("plain", "bob"))
    nothing = cast("Any", None)
    dispatcher = Dispatcher(
        cast("Any", log), nothing, nothing, cast("Any", Mails()), [1.0, 1.0], lambda: False
    )

    async def ended() -> bool:
        return len(log.ended) == 3

    async with background(dispatcher.run(), "deliveries"):
        await until(ended)
    assert log.ended == {"odd": "failed", "beside it": "sent", "plain": "sent"}
