"""Turns a notice into deliveries in the delivery log."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from annals.telemetry import metrics
from annals_notification.deliveries.log import DeliveryLog
from annals_notification.deliveries.plan import Notice, plan
from annals_notification.deliveries.preferences import Channel


class Notices:
    """Logs the deliveries of notices; `added` is called when some of them have yet to be sent."""

    def __init__(self, log: DeliveryLog, added: Callable[[], None]) -> None:
        self._log = log
        self._added = added

    async def tell(self, notice: Notice) -> None:
        """Log the deliveries of a notice, each once however often this is called. Raises DatabaseError.

        A notice from before `since` is ignored. At first, `since` is the first start of this service, which
        receives everything that the broker still has. Later it follows the retention: the deliveries from
        before it are deleted, and would be made again.
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
