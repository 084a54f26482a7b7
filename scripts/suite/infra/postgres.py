"""PostgreSQL, from its wheel."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

import asyncpg

from suite import runtime
from suite.infra import first_start
from suite.infra.passwords import password
from suite.paths import ROOT
from suite.process import Spec

_SETTINGS = ROOT / "components" / "settings.sql"


def _unprivileged(data: Path, program: Path) -> str | None:
    """Return the user to run PostgreSQL as if this process is root, which PostgreSQL refuses; else None.

    That user, `nobody`, is given access to the data's parent folders and to PostgreSQL's own files.
    """
    if os.geteuid() != 0:
        return None
    for path in (data, program):
        for parent in path.resolve().parents:
            if parent.exists():
                _allow(parent, 0o001)
    # A strict umask at their installation makes them readable by root only.
    for folder in runtime.postgres_folders():
        for path in (folder, *folder.rglob("*")):
            _allow(path, 0o005 if path.is_dir() else 0o004)
    return "nobody"


def _allow(path: Path, others: int) -> None:
    mode = path.stat().st_mode
    if mode & others != others:
        path.chmod(mode | others)


class Postgres:
    """PostgreSQL on a loopback port, with a password generated at its first start."""

    def __init__(self, directory: Path, port: int) -> None:
        self._data = directory / "postgres"
        self._password_file = directory / "postgres.password"
        self._bin = runtime.postgres_bin()
        self._user = _unprivileged(self._data, self._bin / "postgres")
        self.port = port

    @property
    def dsn(self) -> str:
        """The connection string of its one database, `annals`."""
        return f"postgresql://annals:{self._password_file.read_text()}@127.0.0.1:{self.port}/annals"

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/stores/postgresql, and for the components of components/shared."""
        return {"postgres": self.dsn}

    def initialise(self) -> None:
        """Create the data directory unless it exists."""
        first_start.whole(self._data, "PG_VERSION", self._create)

    def _create(self, data: Path) -> None:
        data.mkdir(mode=0o700)
        password(self._password_file)
        if self._user:
            for path in (data, self._password_file):
                shutil.chown(path, self._user)
        first_start.run(
            [
                str(self._bin / "initdb"),
                *("-D", str(data), "-U", "annals", "--auth=scram-sha-256"),
                *(f"--pwfile={self._password_file}", "--encoding=UTF8", "--locale=C.UTF-8"),
            ],
            user=self._user,
            group=pwd.getpwnam(self._user).pw_gid if self._user else None,
            extra_groups=[] if self._user else None,
            cwd="/",
        )

    def spec(self) -> Spec:
        """Return the spec of the server."""
        return Spec(
            "postgres",
            [
                str(self._bin / "postgres"),
                *("-D", str(self._data), "-p", str(self.port)),
                *(
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "max_connections=200",
                ),
            ],
            self._ready,
            cwd=Path("/"),
            user=self._user,
            # PostgreSQL's "fast" shutdown, which ends the sidecars' connections instead of waiting for them.
            stop_signal=signal.SIGINT,
        )

    async def _ready(self) -> bool:
        """Return whether PostgreSQL takes queries; create the database and the table of the live settings.

        The table must exist before a sidecar starts.
        """
        try:
            connection = await asyncpg.connect(self.dsn.removesuffix("annals") + "postgres", timeout=2)
        except (OSError, asyncpg.exceptions.PostgresError, TimeoutError):
            return False
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = 'annals'"):
                await connection.execute("CREATE DATABASE annals")
        finally:
            await connection.close()
        await prepare_settings(self.dsn)
        return True


async def prepare_settings(dsn: str) -> None:
    """Run components/settings.sql, which creates the table of the live settings unless it exists."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_SETTINGS.read_text())
    finally:
        await connection.close()
