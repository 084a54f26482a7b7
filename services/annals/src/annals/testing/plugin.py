"""Pytest fixtures: `fake_sidecar`, and `real_sidecar` for behaviour that only a real daprd shows.

pytest loads this plugin by itself wherever annals is installed. The fixtures need pytest-asyncio, which the
extra `testing` installs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from annals.testing.daprd import RealSidecar
    from annals.testing.fake import FakeSidecar


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that say where daprd is."""
    group = parser.getgroup("annals")
    group.addoption("--annals-daprd", metavar="PATH", help="the daprd that real_sidecar starts")
    parser.addini("annals_daprd", "the daprd that real_sidecar starts")


async def _fake_sidecar() -> AsyncIterator[Callable[..., Awaitable[FakeSidecar]]]:
    """Start fake sidecars that stop with the test: `await fake_sidecar("projector", app, dapr=dapr)`.

    The arguments are those of `annals.testing.fake.FakeSidecar`.
    """
    from annals.testing.fake import FakeSidecar

    async with AsyncExitStack() as stack:

        async def start(*arguments: object, **named: object) -> FakeSidecar:
            return await stack.enter_async_context(FakeSidecar(*arguments, **named))  # type: ignore[arg-type]

        yield start


async def _real_sidecar(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[RealSidecar]]]:
    """Start daprd processes that stop with the test, and wait until they are ready.

    `await real_sidecar("projector", components=…, app_port=…)`: `components` is a directory, or YAML texts.
    Relative paths in the components start at the test's `tmp_path`. Workflows and jobs need the addresses of
    a `placement` and a `scheduler`. The test is skipped if there is no daprd.
    """
    from annals.testing.daprd import NoDaprd, RealSidecar, find_daprd

    said = request.config.getoption("--annals-daprd") or request.config.getini("annals_daprd") or None
    try:
        program = find_daprd(said)
    except NoDaprd as error:
        pytest.skip(str(error))

    async with AsyncExitStack() as stack:
        started = 0

        async def start(
            app_id: str = "app",
            *,
            components: Path | Sequence[str] = (),
            app_port: int | None = None,
            placement: str = "",
            scheduler: str = "",
            environment: Mapping[str, str] | None = None,
        ) -> RealSidecar:
            nonlocal started
            started += 1
            if isinstance(components, Path):
                resources = components
            else:
                resources = tmp_path / f"components-{started}"
                resources.mkdir()
                for number, text in enumerate(components):
                    (resources / f"{number}.yaml").write_text(text)
            sidecar = RealSidecar(
                app_id,
                program,
                tmp_path,
                [resources],
                app_port,
                placement,
                scheduler,
                environment or {},
            )
            await sidecar.start()
            stack.push_async_callback(sidecar.stop)
            return sidecar

        yield start


# pytest loads this module wherever annals is installed, so its import must not need pytest-asyncio.
if find_spec("pytest_asyncio") is not None:
    import pytest_asyncio

    fake_sidecar = pytest_asyncio.fixture(name="fake_sidecar")(_fake_sidecar)
    real_sidecar = pytest_asyncio.fixture(name="real_sidecar")(_real_sidecar)
