"""The suite's health in the last quarter of an hour: sampled every few seconds, kept in memory."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from fastapi import APIRouter, Request
from prometheus_client.parser import text_string_to_metric_families as parse

from annals.dapr import NotAnswered, ServiceInvocation
from annals_console.gateway import Authenticate

_EVERY_SECONDS = 3.0
_KEPT = 300  # samples
_ANSWER_SECONDS = 5.0  # for one answer of a service
_LATELY_SECONDS = 60.0  # a replica that has not answered for longer has ended, or is one of many

# The library gives every service the metrics of all services, so only its own are taken from each.
_COUNTERS = {
    "command": {"annals_commands_total": "commands"},
    "projector": {"annals_projection_events_total": "projected"},
    "saga-orchestrator": {"annals_saga_transitions_total": "transitions"},
    "notification": {"annals_notification_deliveries_total": "deliveries"},
}
_DURATIONS = {
    "command": {"annals_command_duration_seconds_bucket": "command"},
    "projector": {"annals_projection_lag_seconds_bucket": "visible"},
}
# By these a replica is known. The first counts in hundredths of a second: replicas may start together.
_BIRTHS = ("process_start_time_seconds", "annals_published_events_created")

Buckets = dict[float, float]


@dataclass(frozen=True, slots=True)
class Scrape:
    """The counters and histograms of one replica at the time `at`."""

    at: float
    counters: dict[str, float]
    durations: dict[str, Buckets]
    rates: dict[str, float] = field(default_factory=dict)
    """The counters' increases per second since the replica's scrape before; empty for its first."""
    seconds: float = 0.0
    """Since the replica's scrape before."""


@dataclass(slots=True)
class Health:
    """Samples the suite's health.

    Any replica of a service may answer. Each is compared with itself, and rates are the sums of all of them.
    """

    samples: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_KEPT))
    _seen: dict[tuple[str, float], Scrape] = field(default_factory=dict)
    _commits: tuple[float, int] | None = None

    async def run(self, invocation: ServiceInvocation) -> None:
        """Take samples until cancelled."""
        while True:
            self.samples.append(await self._look(invocation))
            await asyncio.sleep(_EVERY_SECONDS)

    async def _look(self, invocation: ServiceInvocation) -> dict[str, Any]:
        asked = [
            *((name, "metrics") for name in _COUNTERS),
            ("command", "store/lanes"),
            ("projector", "projections"),
        ]
        # Replicas answer in turn: in a fixed order, one of two would be asked for all metrics.
        random.shuffle(asked)
        found = await asyncio.gather(*(_ask(invocation, app, path) for app, path in asked))
        answers = dict(zip(asked, found, strict=True))
        texts = {name: answers[name, "metrics"] for name in _COUNTERS}
        lanes, projections = answers["command", "store/lanes"], answers["projector", "projections"]
        sample: dict[str, Any] = {
            "time": time.time(),
            "up": {name: text is not None for name, text in texts.items()},
        }
        for service, text in texts.items():
            if isinstance(text, str):
                with suppress(ValueError):  # a service that died while answering is not measured
                    sample |= self._rates(service, text)
        if isinstance(lanes, dict):
            sample["backlog"] = lanes["backlog"]
            sample["commits"] = self._commit_rate(sum(lane["tail"] for lane in lanes["items"]))
        if isinstance(projections, dict):
            sample["lag"] = projections["lag"]
        return sample

    def _commit_rate(self, total: int) -> float | None:
        now, before = time.monotonic(), self._commits
        self._commits = (now, total)
        return None if before is None else max(0, total - before[1]) / (now - before[0])

    def _rates(self, service: str, text: str) -> dict[str, Any]:
        """Return a service's rates, and the durations of the replica that answered.

        Raises ValueError for an answer that broke off.
        """
        birth, scrape = _scrape(service, text)
        before = self._seen.get((service, birth))
        found: dict[str, Any] = {}
        if before is not None:
            found = _quantiles(before, scrape)
            seconds = scrape.at - before.at
            scrape = replace(scrape, rates=_increases(before, scrape, seconds), seconds=seconds)
        self._seen[service, birth] = scrape
        for key, old in list(self._seen.items()):
            if scrape.at - old.at > _KEPT * _EVERY_SECONDS:
                del self._seen[key]
        for (name, _), replica in self._seen.items():
            # Of many replicas, each answers seldom: it is given four times as long as it took before.
            if name == service and scrape.at - replica.at <= max(_LATELY_SECONDS, 4 * replica.seconds):
                for counter, rate in replica.rates.items():
                    found[counter] = found.get(counter, 0) + rate
        return found


def _increases(before: Scrape, scrape: Scrape, seconds: float) -> dict[str, float]:
    return {
        name: _more(value, before.counters.get(name, 0)) / seconds for name, value in scrape.counters.items()
    }


def _quantiles(before: Scrape, scrape: Scrape) -> dict[str, float | None]:
    found: dict[str, float | None] = {}
    for name, buckets in scrape.durations.items():
        earlier = before.durations.get(name, {})
        new = {bound: _more(count, earlier.get(bound, 0)) for bound, count in buckets.items()}
        found |= {f"{name}_p50": quantile(new, 0.5), f"{name}_p95": quantile(new, 0.95)}
    return found


def _more(now: float, before: float) -> float:
    """Return an increase. Raises ValueError for a decrease, which means that lines are missing."""
    if now < before:
        raise ValueError("it broke off")
    return now - before


def quantile(buckets: Buckets, share: float) -> float | None:
    """Return a quantile of a histogram, interpolated as Prometheus does; None if the histogram is empty."""
    total = buckets.get(float("inf"), 0)
    if total <= 0:
        return None
    below, start = 0.0, 0.0
    for bound in sorted(buckets):
        if buckets[bound] >= share * total:
            if bound == float("inf"):
                return start
            return start + (bound - start) * (share * total - below) / (buckets[bound] - below)
        below, start = buckets[bound], bound
    return start


def _scrape(service: str, text: str) -> tuple[float, Scrape]:
    """Return a replica's start time and its metrics. Raises ValueError for a text that is not metrics."""
    counted, timed = _COUNTERS[service], _DURATIONS.get(service, {})
    counters = dict.fromkeys(counted.values(), 0.0)
    durations: dict[str, Buckets] = {name: {} for name in timed.values()}
    birth = 0.0
    if not text.endswith("\n"):
        raise ValueError("it broke off")  # half a number would be read as a number
    for sample in (sample for family in parse(text) for sample in family.samples):
        if sample.name in _BIRTHS:
            birth = max(birth, sample.value)
        elif sample.name in counted:
            counters[counted[sample.name]] += sample.value
        elif sample.name in timed:
            buckets, bound = durations[timed[sample.name]], float(sample.labels["le"])
            buckets[bound] = buckets.get(bound, 0) + sample.value
    return birth, Scrape(time.monotonic(), counters, durations)


async def _ask(invocation: ServiceInvocation, app: str, path: str) -> Any:
    """Return the body of an app's answer; None if there is no answer, or an error."""
    try:
        answer = await invocation.invoke(app, "GET", path, within=_ANSWER_SECONDS)
    except NotAnswered:
        return None
    return answer.body if answer.ok else None


def routes(health: Health, authenticate: Authenticate) -> APIRouter:
    """Return the `/api/health` router."""
    router = APIRouter(prefix="/api", tags=["console"])

    @router.get("/health", summary="The last minutes: throughput, latency, backlog, lag")
    async def samples(request: Request, since: float = 0) -> dict[str, Any]:
        await authenticate(request)
        return {"items": [one for one in health.samples if one["time"] > since]}

    return router
