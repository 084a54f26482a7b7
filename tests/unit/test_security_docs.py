"""What docs/security.md says to be tested and audited is."""

from __future__ import annotations

import re

import pytest

import audit
from suite.paths import ROOT

NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs" / "security.md").read_text())


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_what_is_said_to_be_covered_is(path: str, name: str) -> None:
    text = (ROOT / path).read_text()
    pattern = rf"^(async )?def {name}\(|^{name} = |^class {name}\b" if name else r"^(async )?def test_"
    assert re.search(pattern, text, re.MULTILINE), f"{path} has no {name}"


def test_tests_are_named_at_all() -> None:
    assert len(NAMED) > 50


def test_all_locked_requirements_are_audited() -> None:
    """`make lock` writes every lock file."""
    written = re.findall(r"--output-file (\S+\.lock)", (ROOT / "Makefile").read_text())
    assert set(audit.LOCKS) == set(written)
