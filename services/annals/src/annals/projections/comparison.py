"""Compares two generations of a read model row by row."""

from __future__ import annotations

from typing import Any

from annals.dapr import Database
from annals.projections.projection import Table
from annals.projections.tables import columns, table_name

_SAMPLES = 50
# Of all samples. A sidecar passes on at most 4 MiB, and JSON in a JSON string may take six times its bytes.
_SAMPLE_BYTES = 512 * 1024

# Rows at different versions lack events in one generation, so their columns are not compared.
_DIFFERENCE = """
WITH paired AS (
  SELECT coalesce(old.tenant, new.tenant) AS tenant, coalesce(old.id, new.id) AS id,
    CASE WHEN old.id IS NULL THEN 'only_new' WHEN new.id IS NULL THEN 'only_old'
         WHEN old.version <> new.version THEN 'on_its_way' ELSE 'differs' END AS kind,
    to_jsonb(old.*) - 'prior' AS old_row, to_jsonb(new.*) - 'prior' AS new_row
  FROM readmodels.{old} old
  FULL JOIN readmodels.{new} new ON new.tenant = old.tenant AND new.id = old.id
  WHERE (old.id IS NULL AND NOT new.deleted) OR (new.id IS NULL AND NOT old.deleted)
    OR old.version <> new.version
    OR ROW(old.deleted, {old_columns}) IS DISTINCT FROM ROW(new.deleted, {new_columns})
), samples AS (
  SELECT kind, id, columns,
    sum(octet_length(columns::text)) OVER (ORDER BY octet_length(columns::text), id) AS size
  FROM (SELECT * FROM paired WHERE tenant = $1 ORDER BY kind, id LIMIT {samples}) one
  CROSS JOIN LATERAL (
    SELECT coalesce(json_object_agg(
      name, json_build_object('old', old_row -> name, 'new', new_row -> name)), '{{}}') AS columns
    FROM unnest(ARRAY[{names}]) name
    WHERE coalesce(old_row -> name, 'null') <> coalesce(new_row -> name, 'null')) differing
)
SELECT json_build_object(
  'old_rows', (SELECT count(*) FROM readmodels.{old} WHERE NOT deleted),
  'new_rows', (SELECT count(*) FROM readmodels.{new} WHERE NOT deleted),
  'only_old', (SELECT count(*) FROM paired WHERE kind = 'only_old'),
  'only_new', (SELECT count(*) FROM paired WHERE kind = 'only_new'),
  'differing', (SELECT count(*) FROM paired WHERE kind = 'differs'),
  'on_their_way', (SELECT count(*) FROM paired WHERE kind = 'on_its_way'),
  'samples', (SELECT coalesce(json_agg(
      json_build_object('id', id, 'kind', kind, 'columns', columns) ORDER BY kind, id), '[]')
    FROM samples WHERE size <= {sample_bytes}))::text"""


async def difference(
    database: Database, tenant: str, old: tuple[Table, int], new: tuple[Table, int]
) -> dict[str, Any]:
    """Return counts over all tenants, and sample rows of one tenant that differ in the columns both have.

    The samples are the first fifty; if these are too large for one answer, the largest are left out. Raises
    DatabaseError.
    """
    shared = [name for name in columns(old[0]) if name in columns(new[0])]
    shown = [name for name in shared if name != "version"]
    sql = _DIFFERENCE.format(
        old=table_name(old[0].name, old[1]),
        new=table_name(new[0].name, new[1]),
        old_columns=", ".join(f"old.{name}" for name in shown),
        new_columns=", ".join(f"new.{name}" for name in shown),
        names=", ".join(f"'{name}'" for name in shown),
        samples=_SAMPLES,
        sample_bytes=_SAMPLE_BYTES,
    )
    found: dict[str, Any] = await database.fetch(sql, tenant)
    return found
