"""Sends what is due, a few at a time, and logs what came of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from annals.projections import DatabaseError
from annals.telemetry import metrics
from annals_notification.deliveries.channels import MailSender, NotDelivered, WebhookSender
from annals_notification.deliveries.log import Claimed, DeliveryLog, Ended
from annals_notification.deliveries.preferences import Channel
from annals_notification.deliveries.users import Users

_log = structlog.get_logger(__name__)

_AT_ONCE = 50
_LOOK_SECONDS = 5.0


class Dispatcher:
    """`retry_seconds` are the waits after failed tries; after the last of them a delivery has failed.

    While `paused` says so nothing is taken up; what is being sent is finished.
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
        self._wake = asyncio.Event()

    def look(self) -> None:
        """Something may be due now."""
        self._wake.set()

    async def run(self) -> None:
        """Send for ever."""
        while True:
            self._wake.clear()
            try:
                claimed = [] if self._paused() else await self._deliveries.claim(_AT_ONCE)
                if claimed:
                    await self._deliveries.end(await self._send(claimed))
                    continue
                due = None if self._paused() else await self._deliveries.next_due()
            except DatabaseError as error:
                _log.warning("deliveries cannot be made now", error=str(error))
                due = None
            wait = (due - datetime.now(UTC)).total_seconds() if due else _LOOK_SECONDS
            try:
                async with asyncio.timeout(min(max(wait, 0.05), _LOOK_SECONDS)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _send(self, claimed: Sequence[Claimed]) -> list[Ended]:
        # The e-mails of one user that are due together are one e-mail.
        groups: dict[tuple[str, ...], list[Claimed]] = defaultdict(list)
        for one in claimed:
            apart = () if one.channel is Channel.EMAIL else (one.id,)
            groups[(one.tenant, one.user, one.channel, *apart)].append(one)
        ended = await asyncio.gather(*(self._send_group(group) for group in groups.values()))
        return [one for group in ended for one in group]

    async def _send_group(self, group: list[Claimed]) -> list[Ended]:
        first = group[0]
        try:
            answer = await self._over(first.channel, group)
        except NotDelivered as error:
            return await self._failed(group, error)
        except Exception as error:  # noqa: BLE001 - a notice that cannot be put into words holds up no other
            if len(group) > 1:
                return [ended for one in group for ended in await self._send_group([one])]
            _log.error("a notice cannot be sent as it is", delivery=first.id, exc_info=error)
            why = f"it cannot be sent as it is: {type(error).__name__}: {error}"
            return await self._failed(group, NotDelivered(why, final=True))
        metrics.NOTIFICATIONS.labels(first.channel, "sent").inc()
        if first.channel is Channel.WEBHOOK:
            await self._users.webhook_works(first.tenant, first.user)
        return [Ended(one, "sent", answer) for one in group]

    async def _failed(self, group: list[Claimed], error: NotDelivered) -> list[Ended]:
        first = group[0]
        metrics.NOTIFICATIONS.labels(first.channel, "failed").inc()
        _log.info("not delivered", channel=first.channel, delivery=first.id, reason=str(error))
        return [await self._not_delivered(one, error) for one in group]

    async def _over(self, channel: Channel, group: list[Claimed]) -> str:
        wants = group[0].preferences
        if channel is Channel.WEBHOOK and wants.webhook is not None:
            return await self._webhooks.send(wants.webhook, group[0])
        if channel is Channel.EMAIL and wants.email is not None:
            return await self._mails.send(wants.email, group)
        raise NotDelivered(f"the user has no {channel} any more", final=True)

    async def _not_delivered(self, one: Claimed, error: NotDelivered) -> Ended:
        if error.final or one.attempts > len(self._retry_seconds):
            if one.channel is Channel.WEBHOOK:
                await self._users.webhook_fails(one.tenant, one.user, str(error))
            return Ended(one, "failed", str(error))
        wait = timedelta(seconds=self._retry_seconds[one.attempts - 1])
        return Ended(one, "pending", str(error), datetime.now(UTC) + wait)
