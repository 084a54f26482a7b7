"""From something that happened to deliveries in the log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from annals.telemetry import metrics
from annals_notification.deliveries.log import DeliveryLog
from annals_notification.deliveries.plan import Notice, plan
from annals_notification.deliveries.preferences import Channel


class Notices:
    """`added` is called when there is something to send."""

    def __init__(self, log: DeliveryLog, added: Callable[[], None]) -> None:
        self._log = log
        self._added = added

    async def tell(self, notice: Notice) -> None:
        """Log what is to be delivered of a notice; once, however often it is told. Raises DatabaseError.

        What happened before this service was there is told to nobody, for a first start is given all
        that the broker still has; nor what is older than what is kept.
        """
        since, preferences = await self._log.interested(notice)
        if notice.occurred < since:
            return
        planned = plan(notice, preferences, datetime.now(UTC))
        added = await self._log.add(notice, planned) if planned else {}
        if done := added.pop(Channel.INBOX, 0):
            metrics.NOTIFICATIONS.labels(Channel.INBOX, "sent").inc(done)
        if added:
            self._added()
