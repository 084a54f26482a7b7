"""Provides the embedded suite, with tracing off."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

import untraced
from suite.suite import Suite


@pytest.fixture(scope="module")
async def suite(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    home = tmp_path_factory.mktemp("bench")
    async with Suite("embedded", home=home, config=untraced.config(home)) as suite:
        yield suite
