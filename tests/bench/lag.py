"""How far read models lag behind, as each subject's projector reports it."""

from __future__ import annotations

from dataclasses import dataclass, field

import httpx
from subjects.running import Subject

from conftest import until

_BUCKET = 'annals_projection_lag_seconds_bucket{le="'


@dataclass
class AnnalsLag:
    """The lag from the projector's histogram, rounded up to an edge of its buckets."""

    http: httpx.AsyncClient
    before: dict[str, float] = field(default_factory=dict)

    async def settled(self, _commands: int) -> None:
        async def caught_up() -> bool:
            answer = await self.http.get("http://127.0.0.1:3502/v1.0/invoke/projector/method/projections")
            return bool(answer.json()["lag"] == 0)

        await until(caught_up, 120)

    async def begin(self) -> None:
        self.before = await self._counts()

    async def within(self, share: float) -> float:
        """Return the seconds within which this share of the events since `begin` became visible."""
        counts = await self._counts()
        found = {edge: count - self.before[edge] for edge, count in counts.items()}
        return next(float(edge) for edge, count in found.items() if count >= share * found["+Inf"])

    async def _counts(self) -> dict[str, float]:
        text = (await self.http.get("http://127.0.0.1:8002/metrics")).text
        lines = [line for line in text.splitlines() if line.startswith(_BUCKET)]
        return {line[len(_BUCKET) : line.index('"}')]: float(line.rsplit(" ", 1)[1]) for line in lines}


@dataclass
class PlainLag:
    """The lag from the times that the projector noted for each event."""

    http: httpx.AsyncClient
    port: int
    lags: list[float] = field(default_factory=list)
    expected: int = 0

    async def settled(self, commands: int) -> None:
        self.expected += commands

        async def all_there() -> bool:
            self.lags += (await self.http.get(f"http://127.0.0.1:{self.port}/lags")).json()
            return len(self.lags) >= self.expected

        await until(all_there, 120)

    async def begin(self) -> None:
        self.lags.clear()
        self.expected = 0

    async def within(self, share: float) -> float:
        return sorted(self.lags)[int(share * (len(self.lags) - 1))]


@dataclass
class NoLag:
    """The lag of a subject that projects nothing."""

    async def settled(self, _commands: int) -> None:
        return


Lag = AnnalsLag | PlainLag | NoLag


def of(subject: Subject, http: httpx.AsyncClient) -> Lag:
    """Return how to measure the lag of a subject."""
    if subject.projector is None:
        return NoLag()
    return AnnalsLag(http) if subject.name == "Annals" else PlainLag(http, subject.projector)
