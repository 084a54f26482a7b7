"""The one statement that applies a batch: versions, rows and index together. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from annals.projections.projection import Table

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
}

# Versions advance only from just behind the batch, in one order for everybody so that two
# replicas do not lock each other out. What a stream's rows are changed from is then what the
# snapshot of this statement shows: `prior` was read before it, and nobody moved it since.
_GATE = """
WITH gate AS (
  INSERT INTO readmodels.stream_versions AS known (tenant, stream, version, prior)
  SELECT tenant, stream, version, prior
  FROM jsonb_to_recordset($1::text::jsonb) AS batch (tenant text, stream text, version bigint, prior bigint)
  WHERE prior = 0 OR EXISTS (
    SELECT FROM readmodels.stream_versions there
    WHERE there.tenant = batch.tenant AND there.stream = batch.stream)
  ORDER BY tenant, stream
  ON CONFLICT (tenant, stream) DO UPDATE SET version = excluded.version, prior = excluded.prior
  WHERE known.version = excluded.prior
  RETURNING tenant, stream
)"""

_INDEX = """
, indexed AS (
  INSERT INTO readmodels.event_index ({names})
  SELECT {names} FROM jsonb_to_recordset($2::text::jsonb) AS batch ({typed}) JOIN gate USING (tenant, stream)
  ON CONFLICT DO NOTHING
)"""

_TABLE = """
, {name}_changes AS (
  SELECT change.* FROM jsonb_to_recordset(${place}::text::jsonb)
    AS change (tenant text, stream text, id text, op text, row jsonb)
  JOIN gate USING (tenant, stream)
)
, {name}_deleted AS (
  DELETE FROM readmodels.{name} gone USING {name}_changes change
  WHERE change.op = 'delete' AND gone.tenant = change.tenant AND gone.id = change.id
)
, {name}_written AS (
  INSERT INTO readmodels.{name} ({columns})
  SELECT {new_columns}
  FROM {name}_changes change
  LEFT JOIN readmodels.{name} old
    ON change.op = 'patch' AND old.tenant = change.tenant AND old.id = change.id
  CROSS JOIN LATERAL jsonb_populate_record(old, change.row) AS new
  WHERE change.op = 'put' OR (change.op = 'patch' AND old.id IS NOT NULL)
  ON CONFLICT (tenant, id) DO UPDATE SET {assignments}
)"""

_ADVANCED = """
SELECT coalesce(json_agg(json_build_array(tenant, stream)), '[]')::text FROM gate"""


def apply_statement(tables: Iterable[Table]) -> str:
    """SQL whose parameters are JSON texts: stream versions, index rows, then each table's changes.

    It gives the streams that advanced; whatever belongs to the others was left alone.
    """
    names = ", ".join(INDEX_COLUMNS)
    typed = ", ".join(f"{name} {kind}" for name, kind in INDEX_COLUMNS.items())
    parts = [_GATE, _INDEX.format(names=names, typed=typed)]
    parts += [_table(table, place) for place, table in enumerate(tables, start=3)]
    return "".join((*parts, _ADVANCED))


def _table(table: Table, place: int) -> str:
    def value(column: str) -> str:
        if column in table.maps:
            return f"coalesce(old.{column}, '{{}}') || coalesce(change.row -> '{column}', '{{}}')"
        return f"new.{column}"

    return _TABLE.format(
        name=table.name,
        place=place,
        columns=", ".join(table.columns),
        new_columns=", ".join(map(value, table.columns)),
        assignments=", ".join(f"{column} = excluded.{column}" for column in table.columns),
    )
