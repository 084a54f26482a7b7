"""A TCP proxy before a broker that delays, swallows and cuts traffic, as its seed determines.

A client sends again what a cut left unanswered, so duplicates arise as on a real network.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import dataclass
from typing import Self

_CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Faults:
    """The probabilities of each fault for a passing chunk, and durations in seconds."""

    seed: int
    delay: float = 0.0
    longest_delay: float = 0.2
    cut: float = 0.0
    """The connection ends before the chunk is passed on."""
    lose_reply: float = 0.0
    """A chunk from the client is passed on; then the connection ends, so that no reply comes back."""
    swallow: float = 0.0
    """The connection stays open but passes nothing more; it ends after `swallowed_for`."""
    swallowed_for: float = 3.0


class FaultyProxy:
    """Passes everything on until `faults` is set."""

    def __init__(self, port: int, target: int) -> None:
        self.port = port
        self._target = target
        self.faults: Faults | None = None
        self.injected = 0
        self._connections = 0
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut_all()
        await asyncio.gather(*self._open, return_exceptions=True)

    def cut_all(self) -> None:
        """Cut every open connection."""
        for task in self._open:
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        self._connections += 1
        number = self._connections
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            self._open.discard(task)
            return
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._pump(reader, there[1], number, from_client=True))
                both.create_task(self._pump(there[0], writer, number, from_client=False))
        except* (_Ended, OSError):
            pass
        finally:
            writer.transport.abort()
            there[1].transport.abort()
            self._open.discard(task)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, *, from_client: bool
    ) -> None:
        dice: random.Random | None = None
        while piece := await reader.read(_CHUNK):
            faults = self.faults
            if faults is None:
                dice = None
            else:
                dice = dice or random.Random(f"{faults.seed}/{number}/{from_client}")
                await self._inject(faults, dice, piece, writer, from_client=from_client)
            writer.write(piece)
            await writer.drain()
        raise _Ended

    async def _inject(
        self,
        faults: Faults,
        dice: random.Random,
        piece: bytes,
        writer: asyncio.StreamWriter,
        *,
        from_client: bool,
    ) -> None:
        if dice.random() < faults.delay:
            self.injected += 1
            await asyncio.sleep(dice.uniform(0, faults.longest_delay))
        if dice.random() < faults.swallow:
            self.injected += 1
            await asyncio.sleep(faults.swallowed_for)
            raise _Ended
        if dice.random() < faults.cut:
            self.injected += 1
            raise _Ended
        if from_client and dice.random() < faults.lose_reply:
            self.injected += 1
            writer.write(piece)
            with contextlib.suppress(OSError):
                await writer.drain()
            raise _Ended


class _Ended(Exception):
    """Ends the connection."""
