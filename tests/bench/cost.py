"""What commands cost beside time: bytes, packets, statements, write-ahead log, processor time, memory."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    cpu: dict[str, float]
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
        {one.spec.name: _processor(one) for one in {*suite.processes.values(), *subject.processes}},
        time.perf_counter(),
    )


def each(before: Counted, idle: Counted, after: Counted, commands: int) -> dict[str, Any]:
    """What a command cost. All of the suite runs the whole time, and what it does of itself is taken off: as
    much as it did from `before` to `idle`, for as long as it took from `idle` to `after`.
    """
    times = (after.at - idle.at) / (idle.at - before.at)

    def one(first: float, second: float, third: float) -> float:
        return (third - second - (second - first) * times) / commands

    return {
        name: one(getattr(before, name), getattr(idle, name), getattr(after, name))
        for name in ("bytes", "packets", "wal", "statements")
    } | {"cpu": {name: one(before.cpu[name], idle.cpu[name], cpu) for name, cpu in after.cpu.items()}}


def _statements(log: Path, database: str) -> int:
    """Lines such as `<annals>LOG:  execute stmt: …`, of which there is one for each statement."""
    pattern = re.compile(rf"^<{database}>LOG:  (execute|statement)".encode(), re.MULTILINE)
    return len(pattern.findall(log.read_bytes()))


def _processor(process: Process) -> float:
    """Milliseconds, of a process and its children."""
    total = 0.0
    if process.pid is not None:
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
