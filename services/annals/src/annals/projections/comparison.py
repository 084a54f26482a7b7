"""What differs between two generations of a read model, row by row."""

from __future__ import annotations

from typing import Any

from annals.dapr import Database
from annals.projections.projection import Table
from annals.projections.tables import columns, table_name

_SAMPLES = 50

# Rows at different versions are on their way, and say nothing.
_DIFFERENCE = """
WITH paired AS (
  SELECT coalesce(old.tenant, new.tenant) AS tenant, coalesce(old.id, new.id) AS id,
    CASE WHEN old.id IS NULL THEN 'only_new' WHEN new.id IS NULL THEN 'only_old'
         WHEN old.version <> new.version THEN 'on_its_way' ELSE 'differs' END AS kind,
    to_jsonb(old) - 'prior' AS old_row, to_jsonb(new) - 'prior' AS new_row
  FROM readmodels.{old} old
  FULL JOIN readmodels.{new} new ON new.tenant = old.tenant AND new.id = old.id
  WHERE (old.id IS NULL AND NOT new.deleted) OR (new.id IS NULL AND NOT old.deleted)
    OR old.version <> new.version
    OR ROW(old.deleted, {old_columns}) IS DISTINCT FROM ROW(new.deleted, {new_columns})
), samples AS (
  SELECT kind, id, old_row, new_row FROM paired WHERE tenant = $1 ORDER BY kind, id LIMIT {samples}
)
SELECT json_build_object(
  'old_rows', (SELECT count(*) FROM readmodels.{old} WHERE NOT deleted),
  'new_rows', (SELECT count(*) FROM readmodels.{new} WHERE NOT deleted),
  'only_old', (SELECT count(*) FROM paired WHERE kind = 'only_old'),
  'only_new', (SELECT count(*) FROM paired WHERE kind = 'only_new'),
  'differing', (SELECT count(*) FROM paired WHERE kind = 'differs'),
  'on_their_way', (SELECT count(*) FROM paired WHERE kind = 'on_its_way'),
  'samples', (SELECT coalesce(json_agg(samples), '[]') FROM samples))::text"""


async def difference(
    database: Database, tenant: str, old: tuple[Table, int], new: tuple[Table, int]
) -> dict[str, Any]:
    """Counts over all tenants, and the rows of one tenant that differ, in the columns both have.

    Raises DatabaseError.
    """
    shared = [name for name in columns(old[0]) if name in columns(new[0])]
    shown = [name for name in shared if name != "version"]
    sql = _DIFFERENCE.format(
        old=table_name(old[0].name, old[1]),
        new=table_name(new[0].name, new[1]),
        old_columns=", ".join(f"old.{name}" for name in shown),
        new_columns=", ".join(f"new.{name}" for name in shown),
        samples=_SAMPLES,
    )
    found: dict[str, Any] = await database.fetch(sql, tenant)
    found["samples"] = [_sample(one, shown) for one in found["samples"]]
    return found


def _sample(one: dict[str, Any], shown: list[str]) -> dict[str, Any]:
    old, new = one["old_row"] or {}, one["new_row"] or {}
    differing = {
        name: {"old": old.get(name), "new": new.get(name)} for name in shown if old.get(name) != new.get(name)
    }
    return {"id": one["id"], "kind": one["kind"], "columns": differing}
