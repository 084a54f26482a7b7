"""Waits until a suite is at rest: consumers have caught up with the store, and sagas have ended."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from soak.checks import Violation, proved_from, violations
from soak.evidence import Evidence, read_broker, read_database
from soak.load import Ledger


async def gathered(dsn: str, broker: str) -> Evidence:
    """Read all evidence that there is now."""
    evidence = Evidence()
    await read_database(dsn, evidence)
    await read_broker(broker, evidence)
    return evidence


class Looks:
    """Decides when the evidence was examined often enough.

    That is after two examinations in a row without a violation, once everything scheduled to come soon must
    have come: a doubled effect may come late. If there are violations, it is when they have not changed for
    `same` seconds, or after `most` seconds.
    """

    def __init__(self, proved: datetime, most: float, same: float) -> None:
        self._proved = proved
        self._most = most
        self._same = same
        self._before: set[Violation] = set()
        self._changed = 0.0
        self._well = 0

    def enough(self, found: list[Violation], asked: datetime, seconds: float) -> bool:
        """Return whether `found`, the violations as of `asked`, is final.

        `seconds` is the time since the first examination began.
        """
        self._well = 0 if found else self._well + (asked > self._proved)
        if set(found) != self._before:
            self._before, self._changed = set(found), seconds
        if found:
            return seconds - self._changed > self._same or seconds > self._most
        return self._well > 1


async def at_rest(
    dsn: str,
    broker: str,
    ledger: Ledger,
    *,
    most: float,
    same: float,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Evidence, list[Violation]]:
    """Examine the suite until `Looks` says that it is enough; return the last evidence and its violations."""
    began = time.monotonic()
    looks = Looks(proved_from(ledger, datetime.now(UTC)), most, same)
    while True:
        asked = datetime.now(UTC)
        evidence = await gathered(dsn, broker)
        found = violations(evidence, ledger, asked)
        seconds = time.monotonic() - began
        if looks.enough(found, asked, seconds):
            return evidence, found
        kinds = dict(Counter(one.kind for one in found))
        tell(f"after {seconds:.0f} s {f'not at rest: {kinds}' if found else 'at rest; looking on'}")
        await asyncio.sleep(1 + len(evidence.messages) / 2_000)
