"""Everything goes wrong at once, for minutes, and nothing is lost: `make soak`.

MINUTES and SEED set the duration and the faults. PLANT names an error of plants.py that the checker must
find, so that the test fails.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from soak.checks import Violation, violations
from soak.evidence import Evidence
from soak.faults import Fault, SoakSuite, schedule, skewable
from soak.hostile import Hostile, of_another_tenant
from soak.load import TENANTS, Callers, Ledger, Mixed, client
from soak.plants import BROKEN, STORED, patched, plant_stored, shown_by
from soak.rest import at_rest, gathered
from suite import infra, profiles

MINUTES = float(os.environ.get("SOAK_MINUTES") or 10)
SEED = int(os.environ.get("SOAK_SEED") or random.randrange(10**6))
PLANT = os.environ.get("SOAK_PLANT", "")
_CALLERS_PER_TENANT = 4
_BURST_SECONDS = 30
"""Seconds, at most, that a burst takes to have commands refused while the broker is halted."""
_ANSWERED_SECONDS = 150
"""Seconds after the last fault within which every caller has its answer."""
_REST_SECONDS = 420
"""Seconds until everything must be at rest; a compensation may wait half a minute, a release longer."""
_STALLED_SECONDS = 15
"""Seconds until a saga that stands still is restarted; well below `_SAME_SECONDS`."""
_SAME_SECONDS = 90
"""Seconds without a change after which the remaining violations are final."""
_SHOWN = 40

console = Console(file=sys.stdout, width=120)


@pytest.mark.soak
@pytest.mark.timeout(MINUTES * 60 + _REST_SECONDS + 240)
async def test_nothing_is_lost_whatever_goes_wrong(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not PLANT or PLANT in STORED or PLANT in BROKEN, f"PLANT is one of {[*STORED, *BROKEN]}"
    home = tmp_path_factory.mktemp("soak")
    faults = [fault for fault, _ in zip(schedule(SEED), range(200), strict=False)]
    console.print(f"SEED={SEED} MINUTES={MINUTES:g}; the faults in their order, as far as time allows:")
    console.print(", ".join(map(str, faults)), highlight=False, soft_wrap=True)
    assert skewable(), "faketime is not installed: see `make soak`"
    monkeypatch.setenv("ANNALS_STALLED_AFTER", str(_STALLED_SECONDS))
    suite = SoakSuite(home, patched(PLANT, home / "patch"))
    directory = home / ".annals" / "embedded"
    async with suite.running():
        broker = infra.Nats(directory, profiles.NATS_PORT).url
        ledger, inflicted = await storm(suite, broker, faults)
        dsn = infra.Postgres(directory, profiles.POSTGRES_PORT).dsn
        began = time.monotonic()
        evidence, found = await at_rest(
            dsn, broker, ledger, most=_REST_SECONDS, same=_SAME_SECONDS, tell=console.print
        )
        rest = time.monotonic() - began
        if PLANT in STORED:
            assert not found, "what is to be planted would not show"
            await plant_stored(PLANT, dsn, broker, evidence)
            evidence = await gathered(dsn, broker)
            found = violations(evidence, ledger, datetime.now(UTC))
    report(evidence, ledger, inflicted, suite.injected, rest, found)
    assert not found, f"{len(found)} violations, SEED={SEED}: {dict(Counter(one.kind for one in found))}"
    felt = suite.injected + Counter(burst=ledger.busy)
    idle = {fault.kind for fault in inflicted} & {"slow", "lossy", "burst"} - felt.keys()
    assert not idle, f"nobody has felt {idle}"


async def storm(suite: SoakSuite, broker: str, faults: list[Fault]) -> tuple[Ledger, list[Fault]]:
    """Run the load and inject one fault after another for MINUTES.

    Return the ledger of the callers and the faults that were injected.
    """
    ledger, stop, inflicted = Ledger(), asyncio.Event(), list[Fault]()
    end = time.monotonic() + MINUTES * 60
    try:
        async with asyncio.timeout(None) as bound, client(64) as http, asyncio.TaskGroup() as tasks:
            callers = Callers(http, ledger)

            def go(coroutine: Coroutine[Any, Any, None]) -> None:
                tasks.create_task(coroutine)

            async def burst(amount: int) -> None:
                refused = ledger.busy
                go(_burst(callers, amount))
                with suppress(TimeoutError):
                    async with asyncio.timeout(_BURST_SECONDS):
                        while ledger.busy == refused:
                            await asyncio.sleep(0.1)

            for tenant in TENANTS:
                for number in range(_CALLERS_PER_TENANT):
                    go(Mixed(callers, tenant, random.Random(f"{SEED}/{tenant}/{number}"), stop).run())
            go(Hostile(callers, broker, random.Random(SEED), stop).run())
            go(_strangers(callers, random.Random(SEED), stop))
            go(_progress(ledger, inflicted, stop, end))
            for fault in faults:
                if time.monotonic() + fault.pause + fault.seconds > end:
                    break
                await asyncio.sleep(fault.pause)
                await suite.inflict(fault, burst)
                inflicted.append(fault)
            await asyncio.sleep(max(0, end - time.monotonic()))
            stop.set()
            bound.reschedule(asyncio.get_running_loop().time() + _ANSWERED_SECONDS)
    except TimeoutError:
        waiting = "\n".join(ledger.waiting.values())
        raise AssertionError(f"long after the last fault there is no answer to\n{waiting}") from None
    return ledger, inflicted


async def _burst(callers: Callers, amount: int) -> None:
    await asyncio.gather(*(callers.batch(TENANTS[part % 2], amount // 3) for part in range(3)))


async def _strangers(callers: Callers, dice: random.Random, stop: asyncio.Event) -> None:
    """Now and then, have one tenant try to reach what another has."""
    while not stop.is_set():
        with suppress(TimeoutError):
            async with asyncio.timeout(3):
                await stop.wait()
        tenant = dice.choice(TENANTS)
        tasks = [
            told for told in callers.ledger.commands if told.kind == "task.create" and told.tenant == tenant
        ]
        begun = [
            told.answer.body["id"]
            for told in callers.ledger.sagas
            if told.tenant == tenant and told.answer.done
        ]
        if tasks and tasks[-1].answer.done:
            saga = dice.choice(begun) if begun else None
            await of_another_tenant(callers, tenant, tasks[-1].answer.body["id"], saga)


async def _progress(ledger: Ledger, inflicted: list[Fault], stop: asyncio.Event, end: float) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=MINUTES * 60)
        told = 0.0
        while not stop.is_set():
            left = max(0.0, end - time.monotonic())
            last = str(inflicted[-1]) if inflicted else "none"
            said = f"{len(inflicted)} faults, the last {last}; {len(ledger.commands)} commands answered"
            progress.update(task, completed=MINUTES * 60 - left, description=said)
            if not console.is_terminal and time.monotonic() - told > 20:
                told = time.monotonic()
                console.print(f"{left:.0f} s left, {said}", highlight=False)
            await asyncio.sleep(0.5)


def report(
    evidence: Evidence,
    ledger: Ledger,
    inflicted: list[Fault],
    injected: Counter[str],
    rest: float,
    found: list[Violation],
) -> None:
    """Print the figures and the violations, and write all violations to a file."""
    table = Table(title=f"soak, SEED={SEED}", show_header=False)
    done = [told for told in ledger.commands if told.answer.done]
    ends = Counter(
        events[max(events)]["event_type"]
        for (_, name), events in evidence.streams.items()
        if name.startswith("saga-")
    )
    reminded = sum(row["kind"] == "reminder.due" for row in evidence.deliveries)
    rows: list[tuple[str, object]] = [
        ("faults", _counted(Counter(fault.kind for fault in inflicted))),
        ("what proxies did", _counted(injected)),
        ("refused as too many wait", ledger.busy),
        ("commands acknowledged", len(done)),
        ("commands refused", len(ledger.commands) - len(done)),
        ("requests sent for them", sum(told.answer.tries for told in ledger.commands)),
        ("answers by status", _counted(ledger.statuses)),
        ("hostile requests and messages", ledger.hostile),
        ("queries", ledger.queries),
        ("streams, events", f"{len(evidence.streams)}, {evidence.events}"),
        ("messages of stored events on topics", len(evidence.messages)),
        ("sagas by end", _counted(ends)),
        ("workflows ended", len(evidence.workflows)),
        ("rows in read models", sum(map(len, evidence.read_models.values()))),
        ("reminders, notices", f"{reminded}, {len(evidence.deliveries) - reminded}"),
        ("recurring commands", len([k for k in evidence.outcomes if k[1].startswith("recurrence:")])),
        ("at rest, and all that was due past, after", f"{rest:.0f} s"),
        ("violations", _counted(Counter(one.kind for one in found)) or "none"),
    ]
    if PLANT:
        rows.append((f"planted: {PLANT}", f"{', '.join(sorted(shown_by(PLANT)))} would show it"))
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)
    for one in found[:_SHOWN]:
        console.print(f"{one.kind}: {one.text}", highlight=False, soft_wrap=True, markup=False)
    if len(found) > _SHOWN:
        console.print(f"… and {len(found) - _SHOWN} more, all in soak-violations.txt")
    kept = Path.cwd() / ".annals"
    kept.mkdir(exist_ok=True)
    lines = "".join(f"{one.kind}: {one.text}\n" for one in found)
    (kept / "soak-violations.txt").write_text(lines)
    if found:
        # A failure that only one run of several shows can then be examined afterwards.
        events = (event for stream in evidence.streams.values() for event in stream.values())
        (kept / "soak-events.jsonl").write_text("".join(f"{json.dumps(event)}\n" for event in events))
        console.print("all events are in .annals/soak-events.jsonl")


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.most_common())
