"""Generates docs/guarantees.md from docs/guarantees.json, the results of the conformance suite.

`write` writes the page; `check` fails if it does not match the results.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import written

DOCS = Path(__file__).resolve().parents[1] / "docs"
FOUND, PAGE = DOCS / "guarantees.json", DOCS / "guarantees.md"

# The columns of each table in their order: the key in the results, and the heading.
BROKERS = {
    "kafka": "Kafka",
    "nats": "NATS",
    "rabbitmq": "RabbitMQ",
    "redis": "Redis",
    "mqtt": "MQTT",
    "snssqs": "SNS/SQS",
    "gcp-pubsub": "GCP Pub/Sub",
    "fake": "fake sidecar",
}
STORES = {
    "store:postgresql": "PostgreSQL",
    "store:mysql": "MariaDB",
    "store:sqlite": "SQLite",
    "store:redis": "Redis",
}
# Cases that Dapr itself, and not the broker, takes care of when Annals need not.
BY_DAPR = frozenset({"what a service refuses is given to it again"})
INTRODUCTION = """# Guarantees

This page is made of a run of `make test-brokers`, on real sidecars and the servers that can be had
here. It says for each broker and store what holds, and who sees to it:

- **broker**, **store** or **Dapr**: it was seen to do so by itself; a recording app that has none of
  Annals was given it so;
- **Annals**: they do not, or do not promise it, and the read models were right all the same;
- **no**: it does not hold there, for the reason given below.

In every cell but the last kind the end was checked: read models equal to a fold of the store, with each
event once.

## Brokers
"""
BETWEEN = """
Not run here: **Azure Service Bus**. No server that speaks its protocol can be had here; a sidecar loads
the component files and gets as far as the connection (`tests/integration/test_declared_components.py`).
SNS/SQS is moto's server and GCP Pub/Sub is Google's own fake server, not the services themselves; the
MQTT broker is Mosquitto, and EMQX speaks the same protocol.

What the suite cannot show: a cluster of brokers that loses a node, and disks that lie.

## Stores
"""
END = """
Not run here: **Azure Cosmos DB**; `components/README.md` says what its source lets expect.

## What holds nowhere

- An **integration event** and a message in the **dead letters** are on the broker alone: what the
  broker loses of them is lost.
- A **webhook or an e-mail** is sent at least once: who dies between sending and writing it down sends
  again, under the same id.
- A read model is **behind** the store, by milliseconds as a rule; a query that names a position waits
  for it.
- There is **no order between streams**, and none between a topic and another.
"""


def table(kinds: dict[str, str], found: dict[str, Any], itself: str) -> Iterable[str]:
    """Yield a table with a row for each case and a column for each broker or store; then the remarks.

    `itself` is what a cell says if the broker or store ensures the case without Annals.
    """
    shown = {key: name for key, name in kinds.items() if key in found}
    cases = list(dict.fromkeys(case for key in shown for case in sorted(found[key])))
    yield "| | " + " | ".join(shown.values()) + " |"
    yield "|---" * (len(shown) + 1) + "|"
    for case in cases:
        cells = [_cell(case, found[key].get(case), itself) for key in shown]
        yield f"| {case} | " + " | ".join(cells) + " |"
    remarks = [
        f"- {name}, {case}: {outcome['remark']}"
        for case in cases
        for key, name in shown.items()
        if (outcome := found[key].get(case)) and outcome["remark"]
    ]
    if remarks:
        yield ""
        yield from remarks


def _cell(case: str, outcome: dict[str, Any] | None, itself: str) -> str:
    if outcome is None:
        return "not run"
    who = {"broker": "Dapr" if case in BY_DAPR else itself, "annals": "Annals", "nobody": "**no**"}
    return who[outcome["by"]]


def page() -> str:
    """Return the whole page."""
    found = json.loads(FOUND.read_text())
    parts = [
        INTRODUCTION,
        *table(BROKERS, found, "broker"),
        BETWEEN,
        *table(STORES, found, "store"),
        END,
    ]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(written.run(lambda: {PAGE: page()}, "docs/guarantees.json", "guarantees"))
