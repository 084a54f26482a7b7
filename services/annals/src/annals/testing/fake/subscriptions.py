"""Subscriptions and retry policies, as a test declares them or as Dapr's own YAML files do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml

from annals.testing.fake import schedules

_BULK_DEFAULT = 100


@dataclass(frozen=True, slots=True)
class Subscription:
    """A subscription to a topic, of the apps in `scopes` or else of all apps.

    `bulk` is the maximum number of messages in one delivery; 0 means that each is delivered by itself.
    """

    pubsub: str
    topic: str
    route: str
    bulk: int = 0
    raw: bool = False
    dead_letter_topic: str | None = None
    scopes: frozenset[str] = frozenset()

    def concerns(self, app_id: str) -> bool:
        """Return whether this is a subscription of the app."""
        return not self.scopes or app_id in self.scopes


@dataclass(frozen=True, slots=True)
class Retry:
    """How often the sidecar repeats a failed delivery, and after which wait.

    `most` is the number of retries; -1 means no limit. With `longest`, the waits are exponential: each is 1.5
    times the one before, up to `longest`.
    """

    most: int = 3
    delay: timedelta = timedelta(milliseconds=200)
    longest: timedelta | None = None

    def wait(self, failures: int) -> timedelta | None:
        """Return the wait after `failures` failed tries; None to give up."""
        if 0 <= self.most < failures:
            return None
        if self.longest is None:
            return self.delay
        return min(self.longest, self.delay * 1.5 ** min(failures - 1, 64))


def read_subscriptions(path: Path) -> list[Subscription]:
    """Return the subscriptions in a YAML file, or in all YAML files of a directory."""
    return [
        declared(document["spec"], document.get("scopes") or ())
        for document in _documents(path)
        if document.get("kind") == "Subscription"
    ]


def read_retries(path: Path) -> dict[str, Retry]:
    """Return each component's inbound retry policy, from a YAML file or all YAML files of a directory."""
    retries = {}
    for document in _documents(path):
        if document.get("kind") != "Resiliency":
            continue
        policies = document["spec"].get("policies", {}).get("retries", {})
        for component, target in document["spec"].get("targets", {}).get("components", {}).items():
            name = target.get("inbound", {}).get("retry")
            if name is not None:
                retries[component] = _retry(policies[name])
    return retries


def declared(spec: Mapping[str, Any], scopes: Sequence[str] = ()) -> Subscription:
    """Return a subscription that is declared in YAML or in an app's answer to GET /dapr/subscribe.

    Raises ValueError for routing rules, which the fake does not have, and for a missing route.
    """
    routes = spec.get("routes") or {}
    if isinstance(routes, Mapping) and routes.get("rules"):
        raise ValueError(
            f"the fake has no routing rules, which {spec['topic']} declares: test them on a real sidecar"
        )
    route = spec.get("route") or (routes.get("default") if isinstance(routes, Mapping) else None)
    if not route:
        raise ValueError(f"the subscription to {spec['topic']} has no route")
    bulk = spec.get("bulkSubscribe") or {}
    metadata = spec.get("metadata") or {}
    return Subscription(
        spec["pubsubname"],
        spec["topic"],
        route,
        int(bulk.get("maxMessagesCount") or _BULK_DEFAULT) if bulk.get("enabled") else 0,
        str(metadata.get("rawPayload", "")).lower() == "true",
        spec.get("deadLetterTopic") or None,
        frozenset(scopes),
    )


def _retry(policy: Mapping[str, Any]) -> Retry:
    most = int(policy.get("maxRetries", -1))
    if policy.get("policy", "constant") == "constant":
        return Retry(most, _duration(policy.get("duration", "5s")))
    first = _duration(policy.get("initialInterval", "500ms"))
    return Retry(most, first, _duration(policy.get("maxInterval", "60s")))


def _duration(text: str) -> timedelta:
    return schedules.duration(text) or timedelta()


def _documents(path: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(path.glob("*.yaml")) if path.is_dir() else (path,):
        yield from (document for document in yaml.safe_load_all(file.read_text()) if document)
