"""What commands cost besides time: bytes, packets, statements, write-ahead log, processor time, memory."""

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
"""Flags with which PostgreSQL logs each statement."""


@dataclass(frozen=True)
class Counted:
    """Counters at one moment: of the machine's loopback, of PostgreSQL, and of all processes."""

    bytes: int
    packets: int
    wal: int
    statements: int
    cpu: dict[str, float]
    at: float


async def count(suite: Suite, subject: Subject) -> Counted:
    """Read the counters now.

    Bytes and packets are those of the machine's loopback, write-ahead log that of PostgreSQL, and statements
    those of the subject's database. Processor time is in milliseconds, for each process of the suite and of
    the subject.
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
    """Return the cost of one command, without the suite's idle cost.

    The whole suite runs all the time. Its idle cost from `before` to `idle` is scaled to the time from `idle`
    to `after` and subtracted.
    """
    times = (after.at - idle.at) / (idle.at - before.at)

    def one(first: float, second: float, third: float) -> float:
        return (third - second - (second - first) * times) / commands

    return {
        name: one(getattr(before, name), getattr(idle, name), getattr(after, name))
        for name in ("bytes", "packets", "wal", "statements")
    } | {"cpu": {name: one(before.cpu[name], idle.cpu[name], cpu) for name, cpu in after.cpu.items()}}


def _statements(log: Path, database: str) -> int:
    """Count the lines such as `<annals>LOG:  execute stmt: …`, one for each statement."""
    pattern = re.compile(rf"^<{database}>LOG:  (execute|statement)".encode(), re.MULTILINE)
    return len(pattern.findall(log.read_bytes()))


def _processor(process: Process) -> float:
    """Return the processor time of a process and its children, in milliseconds."""
    total = 0.0
    if process.pid is not None:
        first = psutil.Process(process.pid)
        for one in (first, *first.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):  # a child process of PostgreSQL that has ended meanwhile
                total += sum(one.cpu_times()[:2]) * 1000
    return total


def memory(processes: Sequence[Process]) -> dict[str, float]:
    """Return the resident memory of each process, in MiB."""
    return {
        process.spec.name: psutil.Process(process.pid).memory_info().rss / 2**20
        for process in processes
        if process.pid is not None
    }
