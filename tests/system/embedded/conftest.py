"""Runs the suite as `make start` does, once for all tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from suite.suite import Suite


@pytest.fixture(scope="package")
async def embedded(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Suite]:
    async with Suite("embedded", home=tmp_path_factory.mktemp("suite")) as suite:
        yield suite
