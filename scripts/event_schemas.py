"""Writes the JSON Schemas of all events to docs/events (`write`), or checks the committed ones (`check`).

The check fails if a schema differs from the committed one. It says whether the change breaks readers of
stored events; such a change needs a new version of the event and an upcaster. The check also fails if nothing
reads the events of a committed schema any more.
"""

import json
import sys
from pathlib import Path
from typing import Any

from annals.events.compatibility import incompatibilities
from annals.sagas.events import REGISTRY as SAGA_EVENTS
from annals_command.domain.events import REGISTRY as DOMAIN_EVENTS

DIRECTORY = Path(__file__).resolve().parents[1] / "docs" / "events"


def generated() -> dict[str, str]:
    """Return the schema files that the code describes: file name to text."""
    return {
        f"{name}.json": json.dumps(schema, indent=2, sort_keys=True) + "\n"
        for registry in (DOMAIN_EVENTS, SAGA_EVENTS)
        for name, schema in registry.schemas().items()
    }


def write() -> int:
    """Write every schema and print how many there are."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, text in generated().items():
        (DIRECTORY / name).write_text(text)
    print(f"{len(generated())} schemas in docs/events")
    return 0


def check() -> int:
    """Compare the code's schemas with the committed ones; return 1 if any differs."""
    wrong = []
    for name, text in generated().items():
        path = DIRECTORY / name
        if not path.exists():
            wrong.append(f"{name} is new: `make schemas` writes it")
        elif path.read_text() != text:
            old: dict[str, Any] = json.loads(path.read_text())
            breaks = incompatibilities(old, json.loads(text))
            if breaks:
                wrong.append(
                    f"{name} breaks stored events ({'; '.join(breaks)}): make a new version and an upcaster"
                )
            else:
                wrong.append(f"{name} changed compatibly: `make schemas` writes it")
    for path in sorted(DIRECTORY.glob("*.json")):
        event_type, _, version = path.stem.partition("@")
        if not any(one.reads(event_type, version) for one in (DOMAIN_EVENTS, SAGA_EVENTS)):
            wrong.append(f"{path.name}: such events may be stored, and no class or upcaster reads them")
    for line in wrong:
        print(line)
    return 1 if wrong else 0


if __name__ == "__main__":
    actions = {"write": write, "check": check}
    if len(sys.argv) != 2 or sys.argv[1] not in actions:
        sys.exit(f"usage: event_schemas.py {' | '.join(actions)}")
    sys.exit(actions[sys.argv[1]]())
