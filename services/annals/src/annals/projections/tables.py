"""What the tables of read models are called, have for columns, and are made by. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from annals.projections.projection import KEPT, STAMPS, Projection, Table

LOCK = 4707280152
"""What replicas that change the catalogue take turns by."""

_SETTLE_SECONDS = 15
"""So long after a switch every replica knows of it."""

_GONE = "10 minutes"
"""A version that nobody filled for so long is not run any more: who starts then with it upgrades.

It is longer than a cluster waits before it starts anew what keeps failing.
"""

SETTLING = f"""switched_at IS NOT NULL AND
    coalesce(filled_at, switched_at) < switched_at + make_interval(secs => {_SETTLE_SECONDS})"""
"""Whether what is live may lack what a replica that did not know of the switch wrote to the one before."""


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
    """The table of a generation."""
    return f"{read_model}_{number}"


def columns(table: Table) -> dict[str, str]:
    """The columns that queries see, name to type."""
    return KEPT | dict(table.columns) | STAMPS


def prepare_sql(projection: Projection) -> str:
    """See `Generations.prepare`."""
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
    """Have nothing answer; a part of a DO block.

    What did has all that was looked through by then, and is kept up from there: unless it may lack what was
    written to the one before it.
    """
    return f"""INSERT INTO readmodels.build_progress AS known (read_model, number, lane, seq)
      SELECT read_model, number, lane, seq FROM readmodels.generations, readmodels.lane_checkpoints
      WHERE read_model = '{read_model}' AND status = 'live' AND NOT ({SETTLING})
      ON CONFLICT (read_model, number, lane) DO UPDATE SET seq = greatest(known.seq, excluded.seq);
    UPDATE readmodels.generations SET status = 'retired', expires = greatest(expires, now())
      WHERE read_model = '{read_model}' AND status = 'live';"""


def create_sql(projection: Projection, status: str, reason: str, *, automatic: str = "false") -> str:
    """Make the next generation; a part of a DO block, of which `automatic` is an expression."""
    table = projection.table
    quoted = reason.replace("'", "''")
    defined = [
        *("tenant text", "id text", "version bigint NOT NULL", "prior bigint NOT NULL"),
        "deleted boolean NOT NULL",
        *(f'"{name}" {kind}' for name, kind in (dict(table.columns) | STAMPS).items()),
    ]
    create = f"CREATE TABLE readmodels.{table.name}_%1$s ({', '.join(defined)})"
    # One that is to be built is filled without its indexes, which is faster; see `Generations.index`.
    indexes = index_sql(table, "%1$s") if status == "live" else []
    # Last: of indexes that seem alike, as all do while a table is empty, PostgreSQL takes the newest, and
    # keeps to it until it has counted the rows.
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
    """The statements that make the indexes of a generation's table, unless they are there."""
    return [
        f"CREATE INDEX IF NOT EXISTS {table.name}_{number}_by_{place}"
        f" ON readmodels.{table.name}_{number} {index}"
        for place, index in enumerate(table.indexes, start=1)
    ]


def view_sql(read_model: str) -> str:
    """Have the live generation answer; a part of a DO block.

    Its columns are those that the table has: also code of another version can do it.
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
    """Have nothing answer, until a generation was built; a part of a DO block.

    The view stands on no table: one that is building may be dropped, and shows nothing before it is whole.
    """
    nothing = ", ".join(f"NULL::{kind} AS {name}" for name, kind in columns(table).items())
    return (
        f"DROP VIEW IF EXISTS readmodels.{table.name};"
        f"CREATE VIEW readmodels.{table.name} AS SELECT {nothing} WHERE false;"
    )
