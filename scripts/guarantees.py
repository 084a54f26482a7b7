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

This page is generated from the results of `make test-brokers`, which runs on real sidecars and real servers,
as far as such a server can be installed. It says for each broker and store which guarantees hold, and who
ensures them:

- **broker**, **store** or **Dapr**: it does so by itself, as an app without any of Annals recorded;
- **Annals**: the broker, store and Dapr do not ensure it, or do not promise to, and yet the read models were
  right;
- **no**: it does not hold there, or could not be shown; the notes below the table say why.

Unless a cell in the table of brokers says **no**, its result was checked: the read models were equal to a
fold of the store, with each event applied once.

## Brokers
"""
BETWEEN = """
Not tested: **Azure Service Bus**, because no server that speaks its protocol can be installed. A sidecar
loads the component files and fails only when it connects (`tests/integration/test_declared_components.py`).
SNS/SQS is moto's server and GCP Pub/Sub is Google's own fake server, not the services themselves. The MQTT
broker is Mosquitto; EMQX speaks the same protocol.

The suite cannot show what happens if a cluster of brokers loses a node, or if a disk loses data that it
reported as written.

## Stores
"""
END = """
Not tested: **Azure Cosmos DB**; `components/README.md` says what to expect, going by its source.

## What holds nowhere

- **Integration events** on their way, and messages on a **dead-letter topic** that no service has read yet,
  are only on the broker: if the broker loses one, it is lost.
- A **webhook or an e-mail** may be sent twice: if the service dies after it has sent one and before it has
  recorded that, it sends it again; a webhook then has the same `webhook-id`. One that keeps failing is given
  up, by default after ten hours.
- A read model **lags** behind the store, usually by milliseconds; a query that names a position waits for it,
  up to a limit.
- There is **no order between streams**, and none between topics.
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
