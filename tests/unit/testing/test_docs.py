"""The examples of docs/test-your-own.md that need no server, as printed there."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from suite.paths import ROOT

BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "test-your-own.md").read_text(), re.DOTALL)


def printed(block: int, name: str) -> Callable[..., Any]:
    namespace: dict[str, Any] = {}
    exec(BLOCKS[block], namespace)
    test: Callable[..., Any] = namespace[name]
    return test


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", BLOCKS[0]))
def test_without_a_server(name: str) -> None:
    printed(0, name)()


@pytest.mark.parametrize("name", re.findall(r"def (test_\w+)", BLOCKS[1]))
async def test_on_the_fake(name: str, fake_sidecar: Callable[..., Any]) -> None:
    await printed(1, name)(fake_sidecar)
