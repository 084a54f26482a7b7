"""The one statement that applies a batch: rows and index together. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from annals.projections.projection import STAMPS
from annals.projections.tables import Generation

INDEX_COLUMNS = {
    "tenant": "text",
    "stream": "text",
    "version": "bigint",
    "lane": "integer",
    "seq": "bigint",
    "event_id": "text",
    "event_type": "text",
    "time": "timestamptz",
    "correlation_id": "text",
    "causation_id": "text",
    "user_id": "text",
    "trace_id": "text",
    "session_id": "text",
    "source": "text",
    "client": "text",
}

# A row advances only if its version is still `prior`, its version when the batch was made. Both the snapshot
# that the change is computed from and the row that is then locked must have that version. Versions only
# grow, so the two are the same row. All replicas lock rows in the same order, which prevents deadlocks. A
# deleted row stays, empty, to keep its version, which shows that a late event is late. OFFSET 0 makes
# PostgreSQL look up each row by its key: it expects 100 rows in any batch, and would otherwise read the
# whole of a table of 10,000 rows. The alias of a whole row, "Row", is no column's name: PostgreSQL would take
# the column.
_TABLE = """{name}_written AS (
  INSERT INTO readmodels.{name} AS known (tenant, id, version, prior, deleted, {columns})
  SELECT change.tenant, change.id, change.version, change.prior, change.op = 'none', {new_columns}
  FROM (
    SELECT given.tenant, given.id, given.version, given.prior, given.row,
      coalesce((there.old).version, 0) AS at,
      CASE WHEN given.op = 'patch' AND coalesce((there.old).deleted, true) THEN 'none'
           WHEN given.op = 'delete' THEN 'none' ELSE given.op END AS op,
      there.old
    FROM jsonb_to_recordset(${place}::text::jsonb)
      AS given (tenant text, id text, version bigint, prior bigint, op text, row jsonb)
    LEFT JOIN LATERAL (
      SELECT "Row" AS old FROM readmodels.{name} "Row"
      WHERE "Row".tenant = given.tenant AND "Row".id = given.id OFFSET 0) there ON true
  ) change
  CROSS JOIN LATERAL jsonb_populate_record(
    CASE change.op WHEN 'patch' THEN change.old END,
    CASE change.op WHEN 'none' THEN '{{}}' ELSE change.row END) AS new
  WHERE change.at = change.prior
  ORDER BY change.tenant, change.id
  ON CONFLICT (tenant, id) DO UPDATE
    SET version = excluded.version, prior = excluded.prior, deleted = excluded.deleted, {assignments}
    WHERE known.version = excluded.prior
  RETURNING tenant, id
)"""

# An event is indexed once every read model that wants it has it: the sweeper looks for events that are not
# indexed. `needs` is how many tables this batch must advance for that.
_INDEX = """indexed AS (
  INSERT INTO readmodels.event_index ({names})
  SELECT {names} FROM jsonb_to_recordset($1::text::jsonb) AS batch ({typed}, id text, needs integer)
  WHERE needs = (SELECT count(*) FROM advanced
                 WHERE advanced.tenant = batch.tenant AND advanced.stream = batch.stream)
  ON CONFLICT DO NOTHING
)"""

_ADVANCED = """
SELECT coalesce(json_agg(json_build_array(place, tenant, stream)), '[]')::text FROM advanced"""


def apply_statement(generations: Sequence[Generation], *, indexed: bool = True) -> str:
    """Return SQL whose parameters are JSON texts: index rows, if `indexed`, then each generation's changes.

    The statement returns what advanced, as the generation's place in `generations`, tenant and stream. A row
    that another replica has moved meanwhile is left alone, and is not among them.
    """
    first = 2 if indexed else 1
    parts = [_table(generation, place) for place, generation in enumerate(generations, start=first)]
    advanced = " UNION ALL ".join(
        f"SELECT {place} AS place, tenant, '{one.projection.aggregate_type}-' || id AS stream"
        f" FROM {one.name}_written"
        for place, one in enumerate(generations)
    )
    nothing = "SELECT 0 AS place, '' AS tenant, '' AS stream WHERE false"
    parts.append(f"advanced AS ({advanced or nothing})")
    if indexed:
        names = ", ".join(INDEX_COLUMNS)
        typed = ", ".join(f"{name} {kind}" for name, kind in INDEX_COLUMNS.items())
        parts.append(_INDEX.format(names=names, typed=typed))
    return "WITH " + ", ".join(parts) + _ADVANCED


def _table(generation: Generation, place: int) -> str:
    table = generation.projection.table
    columns = [*table.columns, *STAMPS]

    def value(column: str) -> str:
        if column in table.maps:
            return (
                f"CASE change.op WHEN 'patch' THEN"
                f" coalesce((change.old).{column}, '{{}}') || coalesce(change.row -> '{column}', '{{}}')"
                f" ELSE new.{column} END"
            )
        return f"new.{column}"

    return _TABLE.format(
        name=generation.name,
        place=place,
        columns=", ".join(f'"{column}"' for column in columns),
        new_columns=", ".join(map(value, columns)),
        assignments=", ".join(f'"{column}" = excluded.{column}' for column in columns),
    )
