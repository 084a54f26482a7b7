"""Names, columns and SQL of the tables of read models. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from annals.projections.projection import KEPT, STAMPS, Projection, Table

LOCK = 4707280152
"""The advisory lock by which replicas take turns to change the catalogue of generations."""

_SETTLE_SECONDS = 15
"""Time after a switch by which every replica knows of it."""

_GONE = "10 minutes"
"""A version that was not filled for this long is not running: a replica of it that starts is an upgrade.

This is longer than a cluster waits before it restarts a container that keeps failing.
"""

SETTLING = f"""switched_at IS NOT NULL AND
    coalesce(filled_at, switched_at) < switched_at + make_interval(secs => {_SETTLE_SECONDS})"""
"""SQL condition: the live generation may lack events that replicas wrote to the previous one meanwhile."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One table of a read model."""

    projection: Projection
    number: int

    @property
    def name(self) -> str:
        """The table's name in its schema."""
        return table_name(self.projection.table.name, self.number)


def table_name(read_model: str, number: int) -> str:
    """Return the name of a generation's table."""
    return f"{read_model}_{number}"


def columns(table: Table) -> dict[str, str]:
    """Return the columns that queries see, as names to SQL types."""
    return KEPT | dict(table.columns) | STAMPS


def prepare_sql(projection: Projection) -> str:
    """Return the SQL that gives a read model the generation it lacks; see `Generations.prepare`."""
    name, version = projection.table.name, projection.version
    first = create_sql(projection, "live", "the first")
    build = create_sql(projection, "building", "its version is new", automatic=f"answering < {version}")
    of_this = f"read_model = '{name}' AND version = {version}"
    return f"""SELECT pg_advisory_xact_lock({LOCK});
DO $prepare$ DECLARE
  answering integer := coalesce(
    (SELECT version FROM readmodels.generations WHERE read_model = '{name}' AND status = 'live'), 0);
BEGIN
  IF NOT EXISTS (SELECT FROM readmodels.generations WHERE read_model = '{name}' AND status <> 'dropped') THEN
    IF EXISTS (SELECT FROM readmodels.event_index) THEN
      {build} {_empty_view_sql(projection.table)}
    ELSE
      {first} {view_sql(name)}
    END IF;
  ELSIF NOT EXISTS (SELECT FROM readmodels.generations WHERE {of_this} AND status <> 'dropped') THEN
    {build}
  ELSIF answering < {version} THEN
    UPDATE readmodels.generations SET status = 'building', automatic = true, caught_up = false
    WHERE {of_this} AND coalesce(expires < now() - interval '{_GONE}', true)
      AND number = (SELECT max(number) FROM readmodels.generations WHERE {of_this} AND status = 'retired')
      AND NOT EXISTS (SELECT FROM readmodels.generations
        WHERE {of_this} AND automatic AND status IN ('building', 'paused'));
  END IF;
END $prepare$"""


def retire_sql(read_model: str) -> str:
    """Return the part of a DO block that retires the live generation, so that none answers.

    The generation has all commits up to the lanes' checkpoints, and is filled from the store from there on.
    Only if it is still settling may it lack some of them: then it is filled from where its last fill ended.
    """
    return f"""INSERT INTO readmodels.build_progress AS known (read_model, number, lane, seq)
      SELECT read_model, number, lane, seq FROM readmodels.generations, readmodels.lane_checkpoints
      WHERE read_model = '{read_model}' AND status = 'live' AND NOT ({SETTLING})
      ON CONFLICT (read_model, number, lane) DO UPDATE SET seq = greatest(known.seq, excluded.seq);
    UPDATE readmodels.generations SET status = 'retired', expires = greatest(expires, now())
      WHERE read_model = '{read_model}' AND status = 'live';"""


def create_sql(projection: Projection, status: str, reason: str, *, automatic: str = "false") -> str:
    """Return the part of a DO block that creates the next generation; `automatic` is an SQL expression."""
    table = projection.table
    quoted = reason.replace("'", "''")
    defined = [
        *("tenant text", "id text", "version bigint NOT NULL", "prior bigint NOT NULL"),
        "deleted boolean NOT NULL",
        *(f'"{name}" {kind}' for name, kind in (dict(table.columns) | STAMPS).items()),
    ]
    create = f"CREATE TABLE readmodels.{table.name}_%1$s ({', '.join(defined)})"
    # A generation to be built gets its indexes once it is filled, which is faster; see `Generations.index`.
    indexes = index_sql(table, "%1$s") if status == "live" else []
    # The primary key comes last. Of indexes that seem equally good, as all do while a table is empty,
    # PostgreSQL uses the newest, and keeps to it until it has counted the rows.
    key = f"ALTER TABLE readmodels.{table.name}_%1$s ADD PRIMARY KEY (tenant, id)"
    statements = [create, *indexes, key]
    number = (
        f"(SELECT coalesce(max(number), 0) FROM readmodels.generations WHERE read_model = '{table.name}')"
    )
    insert = (
        f"INSERT INTO readmodels.generations"
        f" (read_model, number, version, status, reason, automatic, caught_up) SELECT '{table.name}',"
        f" {number} + 1, {projection.version}, '{status}', '{quoted}', {automatic}, {status == 'live'};"
    )
    make = "".join(f"EXECUTE format($sql${one}$sql$, {number});" for one in statements)
    return insert + make


def index_sql(table: Table, number: str) -> list[str]:
    """Return the statements that create the missing indexes of a generation's table."""
    return [
        f"CREATE INDEX IF NOT EXISTS {table.name}_{number}_by_{place}"
        f" ON readmodels.{table.name}_{number} {index}"
        for place, index in enumerate(table.indexes, start=1)
    ]


def view_sql(read_model: str) -> str:
    """Return the part of a DO block that points a read model's view at its live generation.

    The columns are read from the table itself, so that code of another version can do this too.
    """
    return f"""DROP VIEW IF EXISTS readmodels.{read_model};
    EXECUTE (
      SELECT format('CREATE VIEW readmodels.{read_model} AS SELECT %s FROM readmodels.{read_model}_%s'
        ' WHERE NOT deleted', string_agg(quote_ident(attname), ', ' ORDER BY attnum), number)
      FROM readmodels.generations
      JOIN pg_attribute ON attrelid = to_regclass(format('readmodels.{read_model}_%s', number))
        AND attnum > 0 AND NOT attisdropped AND attname NOT IN ('prior', 'deleted')
      WHERE read_model = '{read_model}' AND status = 'live' GROUP BY number);"""


def _empty_view_sql(table: Table) -> str:
    """Return the part of a DO block that makes an empty view, which answers until a generation is built.

    The view selects from no table: a generation being built may be dropped, and must not show a part of it.
    """
    nothing = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns(table).items())
    return (
        f"DROP VIEW IF EXISTS readmodels.{table.name};"
        f"CREATE VIEW readmodels.{table.name} AS SELECT {nothing} WHERE false;"
    )
