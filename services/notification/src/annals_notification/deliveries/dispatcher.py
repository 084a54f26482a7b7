"""Sends the deliveries that are due, and logs their outcomes.

Each channel has a fixed number of places. A place serves one receiver at a time; once free, it goes to the
next receiver in line. So e-mails and webhooks do not wait for each other, nor does one receiver for another.
A receiver has one place at most, however many deliveries wait for it.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import NoReturn

import structlog

from annals.dapr import DatabaseError, StatementRefused, StatementTooLarge
from annals.telemetry import metrics
from annals_notification.deliveries import texts
from annals_notification.deliveries.channels import (
    MAIL_SECONDS,
    WEBHOOK_SECONDS,
    MailSender,
    NotDelivered,
    WebhookSender,
)
from annals_notification.deliveries.log import Claimed, DeliveryLog, Due, Ended, Receiver
from annals_notification.deliveries.preferences import Channel
from annals_notification.deliveries.users import Users

_log = structlog.get_logger(__name__)

_LOOK_SECONDS = 5.0  # the longest pause between two looks for what is due
_SHORTEST_WAIT_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class _Places:
    """How many receivers a channel serves at a time, and how many deliveries it claims of each at most."""

    receivers: int
    of_each: int
    lease: timedelta
    """Longer than a claimed delivery takes, including those that it waits for."""

    def fewer(self) -> _Places:
        """Return a smaller claim: first one receiver at a time, then ever fewer of its deliveries."""
        of_each = self.of_each if self.receivers > 1 else max(self.of_each // 4, 1)
        return replace(self, receivers=1, of_each=of_each)


_PLACES = {
    # MailSender sends one e-mail at a time; the second place has the next one ready. All deliveries that are
    # claimed of one receiver go into one e-mail.
    Channel.EMAIL: _Places(2, 200, timedelta(seconds=2 * MAIL_SECONDS + 60)),
    Channel.WEBHOOK: _Places(50, 4, timedelta(seconds=WEBHOOK_SECONDS + 50)),
}

WEBHOOKS_AT_ONCE = _PLACES[Channel.WEBHOOK].receivers * _PLACES[Channel.WEBHOOK].of_each


class Dispatcher:
    """Claims deliveries, sends them and logs the outcomes.

    `retry_seconds` are the waits after failed attempts. A delivery that fails after the last is given up.
    While `paused` returns true, nothing is claimed; what is being sent is finished.
    """

    def __init__(
        self,
        log: DeliveryLog,
        users: Users,
        webhooks: WebhookSender,
        mails: MailSender,
        retry_seconds: Sequence[float],
        paused: Callable[[], bool],
    ) -> None:
        self._deliveries = log
        self._users = users
        self._webhooks = webhooks
        self._mails = mails
        self._retry_seconds = retry_seconds
        self._paused = paused
        self._wake = {channel: asyncio.Event() for channel in _PLACES}
        self._fewer: dict[Channel, tuple[_Places, float]] = {}
        """By channel: a smaller claim after one that was too large, and the monotonic time when it ends."""

    def look(self) -> None:
        """Look for due deliveries now, without waiting for the next look."""
        for wake in self._wake.values():
            wake.set()

    async def run(self) -> None:
        """Send until cancelled, which also cancels what is being sent."""
        async with asyncio.TaskGroup() as channels:
            for channel, places in _PLACES.items():
                channels.create_task(self._run(channel, places))

    async def _run(self, channel: Channel, places: _Places) -> NoReturn:
        busy: set[Receiver] = set()
        wake = self._wake[channel]

        async def send(receiver: Receiver, claimed: list[Claimed]) -> None:
            try:
                await self._send(channel, claimed)
            finally:
                busy.remove(receiver)
                wake.set()

        async with asyncio.TaskGroup() as sends:
            while True:
                wake.clear()
                seconds: float | None = None
                if len(busy) < places.receivers and not self._paused():
                    due = await self._claim(channel, places, busy)
                    for receiver, claimed in _by_receiver(due.claimed).items():
                        busy.add(receiver)
                        sends.create_task(send(receiver, claimed))
                    if due.claimed:
                        continue
                    seconds = due.seconds
                wait = _LOOK_SECONDS if seconds is None else max(seconds, _SHORTEST_WAIT_SECONDS)
                try:
                    async with asyncio.timeout(min(wait, _LOOK_SECONDS)):
                        await wake.wait()
                except TimeoutError:
                    continue

    async def _claim(self, channel: Channel, places: _Places, busy: Collection[Receiver]) -> Due:
        """Claim what is due, for as many receivers as places are free; nothing if the database fails."""
        at_once, fewer_until = self._fewer.get(channel, (places, 0.0))
        if time.monotonic() > fewer_until:
            at_once = places
        free = min(at_once.receivers, places.receivers - len(busy))
        try:
            due = await self._deliveries.claim(channel, busy, free, at_once.of_each, places.lease)
        except DatabaseError as error:
            if isinstance(error, StatementTooLarge):
                # The rows are claimed all the same, and due again together when their lease is over. Claimed
                # as they were, they would be too large again, and block the channel for good.
                fewer_until = time.monotonic() + 2 * places.lease.total_seconds()
                self._fewer[channel] = at_once.fewer(), fewer_until
            _log.warning("deliveries cannot be made now", channel=channel, error=str(error))
            return Due([], None)
        if due.too_large:
            metrics.NOTIFICATIONS.labels(channel, "failed").inc(due.too_large)
            _log.error("deliveries are too large to be sent", channel=channel, deliveries=due.too_large)
        return due

    async def _send(self, channel: Channel, claimed: list[Claimed]) -> None:
        """Send one receiver's deliveries: all in one e-mail, or each to the webhook by itself.

        If quiet hours have begun since they were due, they are put off instead.
        """
        now = datetime.now(UTC)
        if (due := claimed[0].preferences.sendable(channel, now)) > now:
            # If the database's clock is ahead, an earlier time would be due at once, again and again.
            due = max(due, now + timedelta(seconds=_LOOK_SECONDS))
            await asyncio.gather(*(self._end(Ended(one, "pending", "", due, tried=False)) for one in claimed))
            return
        groups = [claimed] if channel is Channel.EMAIL else [[one] for one in claimed]
        await self._deliver_each(channel, groups)

    async def _deliver_each(self, channel: Channel, groups: list[list[Claimed]]) -> None:
        await asyncio.gather(*(self._deliver(channel, together) for together in groups))

    async def _deliver(self, channel: Channel, together: list[Claimed]) -> None:
        try:
            answer = await self._over(channel, together)
        except NotDelivered as error:
            await self._failed(channel, together, error)
        except Exception as error:  # noqa: BLE001 - one that cannot be sent must not hold up others
            if len(groups := _in_words(together)) > 1:
                await self._deliver_each(channel, groups)
                return
            what = {"tenant": together[0].tenant, "delivery": together[0].id}
            _log.error("a notice cannot be sent as it is", **what, exc_info=error)
            why = f"it cannot be sent as it is: {type(error).__name__}: {error}"
            await self._failed(channel, together, NotDelivered(why, final=True))
        else:
            metrics.NOTIFICATIONS.labels(channel, "sent").inc()
            await asyncio.gather(*(self._end(Ended(one, "sent", answer)) for one in together))

    async def _failed(self, channel: Channel, together: list[Claimed], error: NotDelivered) -> None:
        metrics.NOTIFICATIONS.labels(channel, "failed").inc()
        # The answer of a receiver may quote an address. It is in the log of deliveries, which erasures cover.
        _log.info("not delivered", channel=channel, tenant=together[0].tenant, delivery=together[0].id)
        await asyncio.gather(*(self._not_delivered(one, error) for one in together))

    async def _over(self, channel: Channel, together: list[Claimed]) -> str:
        wants = together[0].preferences
        if channel is Channel.WEBHOOK and wants.webhook is not None:
            return await self._webhooks.send(wants.webhook, together[0])
        if channel is Channel.EMAIL and wants.email is not None:
            return await self._mails.send(wants.email, together)
        raise NotDelivered(f"the user has no {channel} any more", final=True)

    async def _not_delivered(self, one: Claimed, error: NotDelivered) -> None:
        if error.final or one.attempts > len(self._retry_seconds):
            await self._end(Ended(one, "failed", str(error)))
        else:
            again = datetime.now(UTC) + timedelta(seconds=self._retry_seconds[one.attempts - 1])
            # The retry may fall into quiet hours.
            due = one.preferences.undisturbed(again)
            await self._end(Ended(one, "pending", str(error), due))

    async def _end(self, ended: Ended) -> None:
        """Log an outcome. If that fails, only this delivery is affected: it is sent again after its lease."""
        one = ended.claimed
        what = {"tenant": one.tenant, "delivery": one.id}
        webhook = one.preferences.webhook if one.channel is Channel.WEBHOOK else None
        try:
            await self._deliveries.end(ended)
            if webhook is not None and ended.status == "sent":
                await self._users.webhook_works(one.tenant, one.user, webhook.url)
            elif webhook is not None and ended.status == "failed":
                await self._users.webhook_fails(one.tenant, one.user, webhook.url, ended.answer)
        except StatementRefused as error:
            _log.error("the database refuses the outcome of a delivery", **what, error=str(error))
        except DatabaseError as error:
            _log.warning("the outcome of a delivery is not logged", **what, error=str(error))


def _by_receiver(claimed: Sequence[Claimed]) -> dict[Receiver, list[Claimed]]:
    of_each: dict[Receiver, list[Claimed]] = defaultdict(list)
    for one in claimed:
        of_each[one.receiver].append(one)
    return of_each


def _in_words(together: list[Claimed]) -> list[list[Claimed]]:
    """Split notices into those that one e-mail can render, and each of the others by itself."""
    told: list[Claimed] = []
    odd: list[list[Claimed]] = []
    for one in together:
        try:
            texts.mail([one])
        except Exception:  # noqa: BLE001 - it is logged when this one is sent by itself
            odd.append([one])
        else:
            told.append(one)
    return [told, *odd] if told else odd
