"""What commands cost beside time: bytes, packets, statements, write-ahead log, processor time, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
import psutil
from subjects.running import Subject, secrets

from suite.process import Process
from suite.suite import Suite

LOGGING = ("-c", "log_statement=all", "-c", "log_line_prefix=<%d>", "-c", "log_parameter_max_length=0")
"""Flags with which PostgreSQL writes down each statement."""


@dataclass(frozen=True)
class Counted:
    """What was counted so far, of the whole machine's loopback, of PostgreSQL, and of all processes."""

    bytes: int
    packets: int
    wal: int
    statements: int
    cpu: float
    at: float


async def count(suite: Suite, subject: Subject) -> Counted:
    """What went over loopback, what PostgreSQL logged, the statements that it ran for the subject's database,
    and the processor time of the suite's servers and of the subject, in milliseconds.
    """
    moved = psutil.net_io_counters(pernic=True)["lo"]
    connection = await asyncpg.connect(secrets(suite)["postgres"])
    try:
        wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - '0/0'")
    finally:
        await connection.close()
    return Counted(
        moved.bytes_recv,
        moved.packets_recv,
        int(wal),
        _statements(suite.processes["postgres"].log, subject.database),
        _processor({*suite.processes.values(), *subject.processes}),
        time.perf_counter(),
    )


def each(before: Counted, idle: Counted, after: Counted, commands: int) -> dict[str, float]:
    """What a command cost. All of the suite runs the whole time, and what it does of itself is taken off: as
    much as it did from `before` to `idle`, for as long as it took from `idle` to `after`.
    """
    times = (after.at - idle.at) / (idle.at - before.at)
    first, second, third = asdict(before), asdict(idle), asdict(after)
    return {
        name: (third[name] - second[name] - (second[name] - first[name]) * times) / commands
        for name in first
        if name != "at"
    }


def _statements(log: Path, database: str) -> int:
    """Lines such as `<annals>LOG:  execute stmt: …`, of which there is one for each statement."""
    pattern = re.compile(rf"^<{database}>LOG:  (execute|statement)".encode(), re.MULTILINE)
    return len(pattern.findall(log.read_bytes()))


def _processor(processes: Iterable[Process]) -> float:
    total = 0.0
    for process in processes:
        if process.pid is None:
            continue
        first = psutil.Process(process.pid)
        for one in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a connection of PostgreSQL's that was closed meanwhile
                total += sum(one.cpu_times()[:2]) * 1000
    return total


def memory(processes: Sequence[Process]) -> dict[str, float]:
    """Resident memory of each process, in MiB."""
    return {
        process.spec.name: psutil.Process(process.pid).memory_info().rss / 2**20
        for process in processes
        if process.pid is not None
    }
