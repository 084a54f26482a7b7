"""Free ports for the servers of tests, given out to concurrent test runs."""

from __future__ import annotations

import asyncio
import itertools
import socket
import sys

import pytest

from annals import free_ports

TAKE = """
from annals.free_ports import free_port
print(*(free_port() for _ in range(300)), flush=True)
input()
"""


async def _takes() -> tuple[asyncio.subprocess.Process, list[int]]:
    """Start a test run that takes ports and then goes on."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", TAKE, stdin=pipe, stdout=pipe)
    assert process.stdout is not None
    return process, [int(port) for port in (await process.stdout.readline()).split()]


async def test_two_test_runs_are_never_given_the_same_port() -> None:
    # Their process ids are neighbours, so they begin at neighbouring blocks.
    runs = await asyncio.gather(_takes(), _takes())
    for process, _ in runs:
        await process.communicate(b"\n")
    (_, one), (_, other) = runs
    assert len({*one, *other}) == 600


def test_when_every_block_is_claimed_the_own_ports_are_given_out_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(free_ports, "_PORTS", range(19_000, 19_128))
    given = list(itertools.islice(free_ports._claimed_ports(), 248))
    assert len(set(given)) == 124
    assert given[:124] == given[124:]


def test_a_port_that_something_listens_on_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_ports.free_port(), free_ports.free_port()
    with socket.create_server(("127.0.0.1", taken)):
        monkeypatch.setattr(free_ports, "_own_ports", iter([taken, free, taken]))
        assert free_ports.free_port() == free
        with pytest.raises(OSError, match="no port from"):
            free_ports.free_port()
