"""The delivery log: every delivery is a row, made once for an event, a user and a channel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import orjson

from annals.projections import ReadModelDatabase
from annals_notification.deliveries.plan import Notice, Planned
from annals_notification.deliveries.preferences import Channel, Preferences
from annals_notification.gathered import Gathered

_LEASE = "60 seconds"

# Those who want to be told of what does not concern them are few, and have an index of their own.
_INTERESTED = """
WITH asked AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (
    place integer, tenant text, kind text, concerned jsonb)),
interested AS (
  SELECT place, one.user_id, data
  FROM asked CROSS JOIN LATERAL jsonb_array_elements_text(concerned) AS one (user_id)
  -- Each by its key: of how many concern somebody PostgreSQL would guess too much, and read them all.
  CROSS JOIN LATERAL (SELECT data FROM notifications.preferences known
    WHERE known.tenant = asked.tenant AND known.user_id = one.user_id OFFSET 0) known
  UNION ALL
  SELECT place, user_id, data FROM asked JOIN notifications.preferences USING (tenant)
  WHERE data @? '$.subscriptions[*] ? (@.mine == false)' AND EXISTS (
    SELECT FROM jsonb_array_elements(data -> 'subscriptions') wanted
    WHERE NOT (wanted ->> 'mine')::boolean AND (
      wanted ->> 'events' = kind
      OR (right(wanted ->> 'events', 1) = '*'
          AND starts_with(kind, rtrim(wanted ->> 'events', '*'))))))
SELECT json_build_object(
  'since', (SELECT since FROM notifications.service),
  'interested', (SELECT coalesce(json_agg(json_build_array(place, user_id, data)), '[]')
    FROM interested))::text"""

# The inbox is a table here: a delivery to it is made by the statement that logs it.
_ADD = """
WITH planned AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (
    id text, tenant text, event_id text, user_id text, channel text, kind text, data jsonb,
    occurred timestamptz, correlation_id text, causation_id text, traceparent text, due timestamptz)),
added AS (
  INSERT INTO notifications.deliveries
    (id, tenant, event_id, user_id, channel, kind, data, occurred, correlation_id, causation_id, traceparent,
     due, status, attempts, ended_at)
  SELECT id, tenant, event_id, user_id, channel, kind, data, occurred, correlation_id, causation_id,
    traceparent, due,
    CASE channel WHEN 'inbox' THEN 'sent' ELSE 'pending' END,
    CASE channel WHEN 'inbox' THEN 1 ELSE 0 END,
    CASE channel WHEN 'inbox' THEN now() END
  FROM planned ON CONFLICT DO NOTHING RETURNING *),
shown AS (
  INSERT INTO notifications.inbox (tenant, user_id, id, kind, data, created_at)
  SELECT tenant, user_id, id, kind, data, occurred FROM added WHERE channel = 'inbox' ON CONFLICT DO NOTHING)
SELECT coalesce(json_object_agg(channel, much), '{}')::text FROM (
  SELECT channel, count(*) AS much FROM added GROUP BY channel) channels"""

_CLAIM = f"""
WITH due AS (
  SELECT id FROM notifications.deliveries WHERE status IN ('pending', 'sending') AND due <= now()
  ORDER BY due LIMIT $1::text::integer FOR UPDATE SKIP LOCKED),
claimed AS (
  UPDATE notifications.deliveries d SET status = 'sending', attempts = attempts + 1,
    due = now() + interval '{_LEASE}'
  FROM due WHERE d.id = due.id RETURNING d.*)
SELECT coalesce(json_agg(json_build_object(
  'id', c.id, 'tenant', c.tenant, 'user', c.user_id, 'channel', c.channel, 'kind', c.kind, 'data', c.data,
  'occurred', c.occurred, 'attempts', c.attempts, 'traceparent', c.traceparent,
  'preferences', (SELECT data FROM notifications.preferences p
                  WHERE p.tenant = c.tenant AND p.user_id = c.user_id)) ORDER BY c.occurred), '[]')::text
FROM claimed c"""  # noqa: S608 - a constant of this module

_END = """
WITH ended AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (
    id text, attempts integer, status text, due timestamptz, answer text)),
moved AS (
  UPDATE notifications.deliveries d SET status = ended.status, answer = ended.answer,
    due = coalesce(ended.due, d.due), ended_at = CASE WHEN ended.status = 'pending' THEN NULL ELSE now() END
  FROM ended WHERE d.id = ended.id AND d.attempts = ended.attempts AND d.status = 'sending' RETURNING d.id)
SELECT count(*)::text FROM moved"""

_NEXT = """
SELECT json_build_object('due', min(due))::text FROM notifications.deliveries
WHERE status IN ('pending', 'sending')"""


_Asked = tuple[str, str, tuple[str, ...]]
_Interested = tuple[datetime, dict[str, Preferences]]


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process is to send, and nobody else for a while."""

    id: str
    tenant: str
    user: str
    channel: Channel
    kind: str
    data: Mapping[str, Any]
    occurred: datetime
    attempts: int
    traceparent: str | None
    preferences: Preferences


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a claimed delivery: sent, failed, or pending again until `due`."""

    claimed: Claimed
    status: str
    answer: str
    due: datetime | None = None


class DeliveryLog:
    """See the module. All raise DatabaseError."""

    def __init__(self, database: ReadModelDatabase) -> None:
        self._database = database
        self._asked: Gathered[_Asked, _Interested] = Gathered(self._interested)

    async def interested(self, notice: Notice) -> _Interested:
        """Since when there is this service, and the preferences of all who may want a notice."""
        return await self._asked.get((notice.tenant, notice.kind, tuple(sorted(notice.concerns))))

    async def _interested(self, asked: Sequence[_Asked]) -> dict[_Asked, _Interested]:
        rows = [
            {"place": place, "tenant": tenant, "kind": kind, "concerned": concerned}
            for place, (tenant, kind, concerned) in enumerate(asked)
        ]
        found = await self._database.fetch(_INTERESTED, orjson.dumps(rows).decode())
        since = datetime.fromisoformat(found["since"])
        preferences: list[dict[str, Preferences]] = [{} for _ in asked]
        for place, user, data in found["interested"]:
            preferences[place][user] = Preferences.stored(data)
        return {one: (since, wanted) for one, wanted in zip(asked, preferences, strict=True)}

    async def add(self, notice: Notice, planned: Sequence[Planned]) -> dict[str, int]:
        """Log deliveries that are to be made; how many are new, by channel."""
        rows = [
            {
                "id": str(
                    uuid5(NAMESPACE_URL, f"{notice.tenant}/{notice.event_id}/{one.user}/{one.channel}")
                ),
                "tenant": notice.tenant,
                "event_id": notice.event_id,
                "user_id": one.user,
                "channel": one.channel,
                "kind": notice.kind,
                "data": notice.data,
                "occurred": notice.occurred,
                "correlation_id": notice.correlation_id,
                "causation_id": notice.causation_id,
                "traceparent": notice.traceparent,
                "due": one.due,
            }
            for one in planned
        ]
        added: dict[str, int] = await self._database.fetch(_ADD, orjson.dumps(rows).decode())
        return added

    async def claim(self, limit: int) -> list[Claimed]:
        """Take deliveries that are due. One whose process died is due again after a minute."""
        return [
            Claimed(
                row["id"],
                row["tenant"],
                row["user"],
                Channel(row["channel"]),
                row["kind"],
                row["data"],
                datetime.fromisoformat(row["occurred"]),
                row["attempts"],
                row["traceparent"],
                Preferences.stored(row["preferences"] or {}),
            )
            for row in await self._database.fetch(_CLAIM, str(limit))
        ]

    async def end(self, ended: Sequence[Ended]) -> None:
        """Log what came of deliveries, unless somebody else has claimed them since."""
        rows = [
            {
                "id": one.claimed.id,
                "attempts": one.claimed.attempts,
                "status": one.status,
                "due": one.due,
                "answer": one.answer[:1000],
            }
            for one in ended
        ]
        await self._database.fetch(_END, orjson.dumps(rows).decode())

    async def next_due(self) -> datetime | None:
        """When the next delivery is due."""
        found = await self._database.fetch(_NEXT)
        return datetime.fromisoformat(found["due"]) if found["due"] else None
