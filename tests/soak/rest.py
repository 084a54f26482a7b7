"""Waiting until a suite has come to rest: what follows the store is behind it, and sagas take their time."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime

from soak.checks import Violation, violations
from soak.evidence import Evidence, read_broker, read_database
from soak.load import Ledger


async def gathered(dsn: str, broker: str) -> Evidence:
    """All there is now."""
    evidence = Evidence()
    await read_database(dsn, evidence)
    await read_broker(broker, evidence)
    return evidence


async def at_rest(
    dsn: str,
    broker: str,
    ledger: Ledger,
    *,
    most: float,
    same: float,
    tell: Callable[[str], None] = lambda _: None,
) -> tuple[Evidence, list[Violation]]:
    """What is there once all is well; else what is wrong after `most` seconds, or unchanged for `same`."""
    began = changed = time.monotonic()
    before: set[Violation] = set()
    while True:
        evidence = await gathered(dsn, broker)
        found = violations(evidence, ledger, datetime.now(UTC))
        now = time.monotonic()
        if set(found) != before:
            before, changed = set(found), now
        if not found or now - changed > same or now - began > most:
            return evidence, found
        tell(f"not at rest after {now - began:.0f} s: {dict(Counter(one.kind for one in found))}")
        await asyncio.sleep(1 + len(evidence.messages) / 2_000)
