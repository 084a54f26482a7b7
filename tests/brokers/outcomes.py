"""What a run of the conformance suite found, kept for docs/guarantees.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suite.paths import ROOT

FILE = ROOT / "docs" / "guarantees.json"


class Outcomes:
    """Of one broker: a case's name to who sees to it, and what else there is to say."""

    def __init__(self, broker: str, *, file: Path = FILE) -> None:
        self._broker = broker
        self._file = file
        self._cases: dict[str, dict[str, Any]] = {}

    def note(self, case: str, *, by_itself: bool, remark: str = "") -> None:
        """A case held, and it did so `by_itself` (by broker and Dapr) or by what Annals does."""
        self._cases[case] = {"by": "broker" if by_itself else "annals", "remark": remark}

    def fail(self, case: str, remark: str) -> None:
        """A case is known not to hold there."""
        self._cases[case] = {"by": "nobody", "remark": remark}

    def save(self) -> None:
        """Put the cases that ran in the place of what an earlier run found."""
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        known[self._broker] = known.get(self._broker, {}) | self._cases
        self._file.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
