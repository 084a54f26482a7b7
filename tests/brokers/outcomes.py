"""Keeps what a run of the conformance suite found, for docs/guarantees.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suite.paths import ROOT

FILE = ROOT / "docs" / "guarantees.json"


class Outcomes:
    """The outcomes of one broker: for each case, who ensures it, and a remark."""

    def __init__(self, broker: str, *, file: Path = FILE) -> None:
        self._broker = broker
        self._file = file
        self._cases: dict[str, dict[str, Any]] = {}

    def note(self, case: str, *, by_itself: bool, remark: str = "") -> None:
        """Note that a case holds: `by_itself`, by broker and Dapr, or else by what Annals does."""
        self._cases[case] = {"by": "broker" if by_itself else "annals", "remark": remark}

    def fail(self, case: str, remark: str) -> None:
        """Note that a case is known not to hold there."""
        self._cases[case] = {"by": "nobody", "remark": remark}

    def save(self) -> None:
        """Save the cases that ran over those of an earlier run."""
        known = json.loads(self._file.read_text()) if self._file.exists() else {}
        known[self._broker] = known.get(self._broker, {}) | self._cases
        self._file.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
