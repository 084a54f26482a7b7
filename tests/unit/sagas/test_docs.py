"""The example of docs/write-your-own-saga.md, as printed there."""

from __future__ import annotations

import re
import sys
from types import ModuleType

import pytest

from suite.paths import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "write-your-own-saga.md").read_text(), re.DOTALL)
MODULE = "annals_saga_orchestrator.sagas.task_review"


@pytest.fixture
def tests(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    declared = ModuleType(MODULE)
    exec(BLOCKS[0], declared.__dict__)
    monkeypatch.setitem(sys.modules, MODULE, declared)
    namespace: dict[str, object] = {}
    exec(BLOCKS[2], namespace)
    return namespace


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", BLOCKS[2]))
def test_the_printed_example(tests: dict[str, object], name: str) -> None:
    test = tests[name]
    assert callable(test)
    test()
