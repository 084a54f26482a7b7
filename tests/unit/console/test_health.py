from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import pytest

import annals_console.health as measured
from annals.dapr.invocation import Answer
from annals_console.health import Health, quantile


@pytest.mark.parametrize(
    ("buckets", "share", "value"),
    [
        ({0.1: 10, 0.2: 10, math.inf: 10}, 0.5, 0.05),
        ({0.1: 0, 0.2: 10, math.inf: 10}, 0.5, 0.15),
        ({0.1: 5, 0.2: 5, math.inf: 10}, 0.95, 0.2),
        ({0.1: 0, math.inf: 0}, 0.5, None),
    ],
)
def test_a_quantile_is_reckoned_as_prometheus_does(
    buckets: dict[float, float], share: float, value: float | None
) -> None:
    assert quantile(buckets, share) == (None if value is None else pytest.approx(value))


def metrics(born: float, commands: int) -> str:
    return (
        f"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds {born}\n"
        f'# TYPE annals_commands_total counter\nannals_commands_total{{type="a"}} {commands}\n'
    )


def test_a_replica_is_compared_with_itself() -> None:
    health = Health()
    assert health._rates("command", metrics(1, 100)) == {}
    assert health._rates("command", metrics(2, 7)) == {}, "another replica, or the same after a restart"
    first = health._rates("command", metrics(1, 110))["commands"]
    assert first > 0
    assert health._rates("command", metrics(2, 7))["commands"] == first, "the other one did nothing"


@dataclass
class Replicas:
    """The projector's replicas, which answer in turn, each with what it has projected by now."""

    started: dict[float, float]
    """When each began to count, by its birth."""
    per_second: float = 100
    now: float = 0
    turns: int = 0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now

    async def invoke(self, app: str, _method: str, path: str, **_: float) -> Answer:
        if app != "projector":
            return Answer(503, {})
        self.turns += 1
        born = list(self.started)[self.turns % len(self.started)]
        if path != "metrics":
            return Answer(200, {"items": [], "lag": 0})
        return Answer(200, metrics(born, 0) + projected(self.per_second * (self.now - self.started[born])))


def projected(count: float) -> str:
    return f"# TYPE annals_projection_events_total counter\nannals_projection_events_total {count}\n"


@pytest.fixture
def replicas(monkeypatch: pytest.MonkeyPatch) -> Replicas:
    replicas = Replicas({})
    monkeypatch.setattr(measured, "time", replicas)
    monkeypatch.setattr(measured, "random", random.Random(1))
    return replicas


async def look(health: Health, replicas: Replicas, times: int) -> dict[str, Any]:
    for _ in range(times):
        replicas.now += 3
        sample = await health._look(replicas)  # type: ignore[arg-type]
    return sample


@pytest.mark.parametrize("count", [1, 2, 3, 4])
async def test_a_rate_is_the_sum_over_the_replicas_of_a_service(replicas: Replicas, count: int) -> None:
    replicas.started = {float(born): 0.0 for born in range(1, count + 1)}
    sample = await look(Health(), replicas, 30)
    assert sample["projected"] == pytest.approx(100 * count)


async def test_the_rate_of_many_replicas_is_nearly_whole_though_each_answers_seldom(
    replicas: Replicas,
) -> None:
    replicas.started = {float(born): 0.0 for born in range(1, 21)}
    sample = await look(Health(), replicas, 300)
    assert sample["projected"] == pytest.approx(2_000, rel=0.1)


async def test_a_replica_that_ended_counts_no_more_and_one_that_restarted_counts_from_zero(
    replicas: Replicas,
) -> None:
    health = Health()
    replicas.started = {1.0: 0.0, 2.0: 0.0, 3.0: 0.0}
    assert (await look(health, replicas, 30))["projected"] == pytest.approx(300)
    replicas.started = {1.0: 0.0, 4.0: replicas.now}
    assert (await look(health, replicas, 30))["projected"] == pytest.approx(200)


def test_replicas_that_started_together_are_told_apart() -> None:
    health = Health()

    def answer(created: float, commands: int) -> dict[str, Any]:
        kind = "# TYPE annals_published_events_created gauge\nannals_published_events_created"
        return health._rates("command", f"{metrics(1000.25, commands)}{kind} {created}\n")

    assert answer(1000.250_001, 100) == {}
    assert answer(1000.250_002, 7) == {}
    assert answer(1000.250_001, 100)["commands"] == 0


def test_a_service_tells_of_its_own_metrics_alone() -> None:
    health = Health()
    for counted in (0, 10):
        found = health._rates("command", metrics(1, counted)) | health._rates("projector", metrics(2, 0))
    assert found["commands"] > 0
    assert set(found) == {"commands", "command_p50", "command_p95", "projected", "visible_p50", "visible_p95"}


class Services:
    """Serves the services' metrics, those of the command service cut off after `broken_off` characters."""

    def __init__(self) -> None:
        self.commands = 0
        self.broken_off: int | None = None

    async def invoke(self, app: str, _method: str, path: str, **_: float) -> Answer:
        if path != "metrics":
            return Answer(503, {})
        self.commands += 10
        return Answer(200, metrics(1, self.commands)[: self.broken_off if app == "command" else None])


async def test_metrics_that_broke_off_are_not_measured_and_the_next_are() -> None:
    services, health = Services(), Health()
    await health._look(services)  # type: ignore[arg-type]
    for length in range(len(metrics(1, services.commands))):
        services.broken_off = length
        sample = await health._look(services)  # type: ignore[arg-type]
        assert sample["up"]["command"]
        assert "projected" in sample, "the others are"
        assert sample.get("commands", 0) >= 0
    assert "commands" not in sample
    services.broken_off = None
    assert (await health._look(services))["commands"] > 0  # type: ignore[arg-type]
