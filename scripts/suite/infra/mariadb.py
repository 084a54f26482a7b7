"""MariaDB, from the system's package."""

from __future__ import annotations

import asyncio
import getpass
import os
from collections.abc import Mapping
from pathlib import Path

from suite import packages, ports
from suite.infra import first_start
from suite.infra.passwords import password, write_private
from suite.process import Spec

COLLATION = "utf8mb4_bin"  # case-sensitive: keys that differ only by case are different keys
DATABASES = ("annals", "annals_workflows")


class MariaDb:
    """One MariaDB server with the databases of components/stores/mysql, and one user for both."""

    def __init__(self, directory: Path, port: int) -> None:
        self._directory = directory / "mariadb"
        self._start_sql = self._directory / "start.sql"
        self._password_file = directory / "mariadb.password"
        self._server = packages.program("mariadbd")
        self.port = port

    @property
    def secrets(self) -> Mapping[str, str]:
        """The secrets for components/stores/mysql."""
        secret = password(self._password_file)
        return {"mysql": f"annals:{secret}@tcp(127.0.0.1:{self.port})/?allowNativePasswords=true"}

    def initialise(self) -> None:
        """Write the SQL that runs at each start, and create the data directory unless it exists."""
        user = f"'annals'@'127.0.0.1' IDENTIFIED BY '{password(self._password_file)}'"
        statements = [
            *(
                f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb4 COLLATE {COLLATION};"
                for name in DATABASES
            ),
            f"CREATE USER IF NOT EXISTS {user};",
            *(f"GRANT ALL ON {name}.* TO 'annals'@'127.0.0.1';" for name in DATABASES),
            "ALTER USER root@localhost ACCOUNT LOCK;",
        ]
        write_private(self._start_sql, "\n".join(statements))
        first_start.whole(self._directory / "data", "mysql", self._create)

    def _create(self, data: Path) -> None:
        argv = [
            str(packages.beside("mariadbd", "mariadb-install-db")),
            *("--no-defaults", f"--datadir={data}", f"--user={getpass.getuser()}"),
            *("--skip-test-db", "--auth-root-authentication-method=normal"),
        ]
        first_start.run(argv)

    def spec(self) -> Spec:
        """Return the spec of the server."""
        argv = [
            str(self._server),
            *("--no-defaults", f"--datadir={self._directory / 'data'}", f"--user={getpass.getuser()}"),
            *("--bind-address=127.0.0.1", f"--port={self.port}", "--socket=mariadb.sock"),
            *("--skip-name-resolve", "--transaction-isolation=READ-COMMITTED"),
            *("--character-set-server=utf8mb4", f"--collation-server={COLLATION}"),
            f"--init-file={self._start_sql}",
            *("--max-connections=300", "--innodb-buffer-pool-size=128M"),
        ]
        return Spec("mariadb", argv, lambda: ports.open_port(self.port), stop_seconds=30)

    async def recreate(self, database: str, *, collation: str = COLLATION) -> None:
        """Drop a database with everything in it, and create it again. Raises RuntimeError if that fails."""
        client = await asyncio.create_subprocess_exec(
            str(packages.beside("mariadbd", "mariadb")),
            *("--no-defaults", "--protocol=tcp", "--host=127.0.0.1", f"--port={self.port}", "--user=annals"),
            "--execute",
            f"DROP DATABASE IF EXISTS {database}; "
            f"CREATE DATABASE {database} CHARACTER SET utf8mb4 COLLATE {collation}",
            env=os.environ | {"MYSQL_PWD": password(self._password_file)},
        )
        if await client.wait():
            raise RuntimeError(f"the database {database} could not be made anew")
