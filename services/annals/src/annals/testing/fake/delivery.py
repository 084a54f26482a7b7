"""Deliveries to an app over HTTP: what it is sent, what its answers mean, retries and dead letters.

The rules are those of dapr 1.18, pkg/runtime/subscription and its postman/http.
"""

from __future__ import annotations

import base64
import json
import random
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import Enum, auto
from typing import Any

import httpx

from annals.testing.fake.apps import AppChannel
from annals.testing.fake.broker import BrokerDown, FakeBroker, Group, Lease, Record
from annals.testing.fake.subscriptions import Retry, Subscription

_NOT_FOUND = 404
_FLOAT_EXACT = 2**53


class Outcome(Enum):
    """The outcome of a delivery. `UNREADABLE` means that the message is not a CloudEvent."""

    DONE = auto()
    DROPPED = auto()
    FAILED = auto()
    UNREADABLE = auto()


class Consumer:
    """A sidecar's member of a consumer group: takes records, delivers them, and gives back the unfinished."""

    def __init__(
        self,
        broker: FakeBroker,
        group: Group,
        subscription: Subscription,
        app: AppChannel,
        retry: Retry | None,
        chance: random.Random,
    ) -> None:
        self._broker = broker
        self._group = group
        self._subscription = subscription
        self._app = app
        self._retry = retry
        self._random = chance

    async def run(self) -> None:
        """Deliver until cancelled; deliveries under way then go to another consumer."""
        self._group.members += 1
        try:
            while True:
                await self._work_off(await self._group.take(self._subscription.bulk or 1))
        finally:
            self._group.members -= 1
            self._broker.signal.notify()

    async def _work_off(self, leases: Sequence[Lease]) -> None:
        try:
            left, failures = list(leases), 0
            while left:
                outcomes = await self._deliver(left)
                failed = []
                for lease, outcome in zip(left, outcomes, strict=True):
                    if outcome is Outcome.FAILED:
                        failed.append(lease)
                    elif outcome is Outcome.UNREADABLE:
                        self._give_up(lease)
                    else:
                        self._finish(lease, dead=outcome is Outcome.DROPPED)
                left, failures = failed, failures + 1
                wait = self._retry.wait(failures) if left and self._retry else None
                if wait is None:
                    break
                for lease in left:
                    lease.parked = True
                self._broker.signal.notify()
                await self._broker.clock.sleep(wait)
                for lease in left:
                    lease.parked = False
            for lease in left:
                self._give_up(lease)
        finally:
            for lease in leases:
                self._group.give_back(lease)  # no effect on those that are done

    def _finish(self, lease: Lease, *, dead: bool) -> None:
        if dead and self._subscription.dead_letter_topic is not None:
            self._give_up(lease)
        else:
            self._group.done(lease)

    def _give_up(self, lease: Lease) -> None:
        topic = self._subscription.dead_letter_topic
        if topic is not None:
            try:
                self._broker.publish(topic, lease.record)
            except BrokerDown:  # the record is delivered again when the broker is back
                self._group.give_back(lease)
            else:
                self._group.done(lease)
        else:
            self._group.give_back(lease, self._broker.redelivery)

    async def _deliver(self, leases: Sequence[Lease]) -> list[Outcome]:
        now = self._broker.clock.now()
        if not self._subscription.bulk:
            return [await self._single(lease.record, now) for lease in leases]
        outcomes: dict[int, Outcome] = {}
        entries: list[dict[str, Any]] = []
        for number, lease in enumerate(leases):
            try:
                event = self._entry(lease.record, now)
            except ValueError:
                outcomes[number] = Outcome.UNREADABLE
                continue
            if event is None:
                outcomes[number] = Outcome.DROPPED
            else:
                entries.append({"entryId": str(number), **event})
        if entries:
            answered = await self._bulk(entries)
            outcomes |= {int(name): outcome for name, outcome in answered.items()}
        return [outcomes[number] for number in range(len(leases))]

    async def _single(self, record: Record, now: datetime) -> Outcome:
        if self._subscription.raw:
            event: Any = self._raw_event(record)
            body = json.dumps(event, separators=(",", ":"), sort_keys=True).encode()
        else:
            try:
                event = json.loads(record.body)
            except ValueError:
                return Outcome.UNREADABLE
            if not isinstance(event, dict):
                return Outcome.UNREADABLE
            body = record.body
        if _expired(event, now):
            return Outcome.DROPPED
        headers = {
            **{name: value for name, value in record.metadata.items() if name.isascii() and value.isascii()},
            "pubsubname": self._subscription.pubsub,
            "content-type": "application/cloudevents+json",
        }
        if isinstance(event.get("traceparent"), str) and event["traceparent"]:
            headers["traceparent"] = event["traceparent"]
        try:
            answer = await self._app.call("POST", self._subscription.route, content=body, headers=headers)
        except httpx.HTTPError:
            return Outcome.FAILED
        if answer.status_code == _NOT_FOUND:
            return Outcome.DROPPED
        if not answer.is_success:
            return Outcome.FAILED
        said = _json(answer)
        return _meaning(said.get("status", "") if isinstance(said, dict) else "")

    def _entry(self, record: Record, now: datetime) -> dict[str, Any] | None:
        if self._subscription.raw:
            event: Any = base64.b64encode(record.body).decode()
            kind = "application/octet-stream"
        else:
            # Dapr decodes the numbers of a bulk as floats, so integers beyond 2^53 are rounded.
            event = json.loads(record.body, parse_int=_as_float)
            kind = "application/cloudevents+json"
            if not isinstance(event, dict):
                raise ValueError("a CloudEvent is an object")
            if _expired(event, now):
                return None
        return {"event": event, "contentType": kind, "metadata": dict(record.metadata) or None}

    async def _bulk(self, entries: Sequence[Mapping[str, Any]]) -> dict[str, Outcome]:
        envelope = {
            "id": self._new_id(),
            "entries": entries,
            "metadata": {"pubsubName": self._subscription.pubsub},
            "pubsubname": self._subscription.pubsub,
            "topic": self._subscription.topic,
            "type": "com.dapr.event.sent.bulk",
        }
        names = [entry["entryId"] for entry in entries]
        try:
            answer = await self._app.call(
                "POST",
                self._subscription.route,
                content=json.dumps(envelope).encode(),
                headers={"content-type": "application/json", "pubsubname": self._subscription.pubsub},
            )
        except httpx.HTTPError:
            return dict.fromkeys(names, Outcome.FAILED)
        if answer.status_code == _NOT_FOUND:  # dropped without a dead letter, unlike a single delivery
            return dict.fromkeys(names, Outcome.DONE)
        said = _json(answer) if answer.is_success else None
        statuses = said.get("statuses") if isinstance(said, dict) else None
        outcomes = dict.fromkeys(names, Outcome.FAILED)
        for status in statuses or ():
            # An empty status means a retry in a bulk, but success in a single delivery.
            if status.get("entryId") in outcomes and status.get("status"):
                outcomes[status["entryId"]] = _meaning(status["status"])
        return outcomes

    def _raw_event(self, record: Record) -> dict[str, Any]:
        return {
            "id": self._new_id(),
            "specversion": "1.0",
            "datacontenttype": "application/octet-stream",
            "source": "Dapr",
            "type": "com.dapr.event.sent",
            "topic": self._subscription.topic,
            "pubsubname": self._subscription.pubsub,
            "data_base64": base64.b64encode(record.body).decode(),
        }

    def _new_id(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))


def _meaning(status: Any) -> Outcome:
    known = {"": Outcome.DONE, "SUCCESS": Outcome.DONE, "DROP": Outcome.DROPPED}
    return known.get(status, Outcome.FAILED) if isinstance(status, str) else Outcome.DONE


def _json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError:
        return None


def _expired(event: Mapping[str, Any], now: datetime) -> bool:
    try:
        return datetime.fromisoformat(str(event.get("expiration", ""))) < now
    except ValueError:
        return False


def _as_float(digits: str) -> int | float:
    number = int(digits)
    return number if abs(number) <= _FLOAT_EXACT else float(number)
