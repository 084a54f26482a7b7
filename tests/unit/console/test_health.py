from __future__ import annotations

import math

import pytest

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
    assert health._rates("command", metrics(1, 110))["commands"] > 0
    assert health._rates("command", metrics(2, 7))["commands"] == 0


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

    async def invoke(self, app: str, _method: str, path: str) -> Answer:
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
