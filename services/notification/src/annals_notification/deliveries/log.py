"""The delivery log: one row for each delivery, made once for each event, user and channel."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import NAMESPACE_URL, uuid5

import orjson

from annals.dapr import Database
from annals_notification.deliveries.plan import Notice, Planned
from annals_notification.deliveries.preferences import Channel, Preferences
from annals_notification.gathered import Gathered
from annals_notification.stored_text import stored_text

_BYTES_AT_ONCE = 2_000_000
"""The size at which an answer takes no further row. The last row may go beyond it, up to `_MOST_BYTES`."""
_MOST_BYTES = 4_190_000
"""The most that all rows of an answer may take. A sidecar takes 4 MiB, including what surrounds them."""
_ROW_BYTES = 1_000
"""What a row of an answer takes in addition to its data and preferences."""
_PLANNED_AT_ONCE = 5_000
"""Deliveries that one statement logs at most."""
_LOOKED_AT = 200
"""How many due deliveries a claim looks through, oldest first, to find receivers."""


def _bytes_answered(text: str) -> str:
    """Return SQL for the number of bytes that a text takes as a string in a sidecar's answer.

    bindings.postgresql writes the answer with Go's encoding/json (components-contrib 1.18), which escapes
    more characters than PostgreSQL does.
    """
    written = f"to_json({text})::text"
    for character in "<>&\u2028\u2029":
        written = f"replace({written}, '{character}', '\\uXXXX')"
    return f"octet_length({written})"


# Few users want to be told of what does not concern them: the index `preferences_of_all` finds these.
_INTERESTED = f"""
WITH asked AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (
    place integer, tenant text, kind text, concerned jsonb, addressed boolean, after text)),
interested AS (
  SELECT place, one.user_id, data
  FROM asked CROSS JOIN LATERAL jsonb_array_elements_text(concerned) AS one (user_id)
  -- Each user by key: PostgreSQL overestimates how many users are concerned, and would read all rows.
  CROSS JOIN LATERAL (SELECT data FROM notifications.preferences known
    WHERE known.tenant = asked.tenant AND known.user_id = one.user_id OFFSET 0) known
  WHERE one.user_id > after
  UNION ALL
  SELECT place, user_id, data FROM asked JOIN notifications.preferences USING (tenant)
  WHERE NOT addressed AND user_id > after AND NOT concerned ? user_id
    AND data @? '$.subscriptions[*] ? (@.mine == false)' AND EXISTS (
    SELECT FROM jsonb_array_elements(data -> 'subscriptions') wanted
    WHERE NOT (wanted ->> 'mine')::boolean AND (
      wanted ->> 'events' = kind
      OR (right(wanted ->> 'events', 1) = '*'
          AND starts_with(kind, rtrim(wanted ->> 'events', '*')))))),
line AS (
  SELECT place, user_id, data, sum(bytes) OVER (ORDER BY place, user_id) - bytes AS before
  FROM (SELECT *, {_ROW_BYTES} + {_bytes_answered("data::text")} AS bytes FROM interested) sized)
SELECT json_build_object(
  'since', (SELECT since FROM notifications.service),
  'interested', (SELECT coalesce(
    json_agg(json_build_array(place, user_id, data) ORDER BY place, user_id), '[]')
    FROM line WHERE before < {_BYTES_AT_ONCE}),
  -- The places for which more users follow.
  'more', (SELECT coalesce(json_agg(DISTINCT place), '[]')
    FROM line WHERE before >= {_BYTES_AT_ONCE}))::text"""  # noqa: S608 - constants of this module

# The inbox is a table of this database: the statement that logs a delivery to it also makes it.
_ADD = """
WITH planned AS (
  -- The notice may be large: it is passed once for all deliveries.
  SELECT * FROM jsonb_to_record($1::text::jsonb) AS notice (
    tenant text, event_id text, kind text, data jsonb, occurred timestamptz, correlation_id text,
    causation_id text, traceparent text)
  CROSS JOIN jsonb_to_recordset($2::text::jsonb) AS row (
    id text, user_id text, channel text, due timestamptz)),
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

# A replica that locks a receiver's first row claims all rows of that receiver. Otherwise replicas that claim
# at the same time would divide them, and the receiver would get an e-mail from each.
_CLAIM = f"""
WITH looked_at AS MATERIALIZED (
  SELECT id, tenant, user_id, due, status FROM notifications.deliveries
  WHERE channel = $1 AND status IN ('pending', 'sending') AND due <= now()
    AND (tenant, user_id) NOT IN (
      SELECT tenant, user_id FROM jsonb_to_recordset($2::text::jsonb) AS busy (tenant text, user_id text))
  ORDER BY due, id LIMIT {_LOOKED_AT}),
firsts AS (
  SELECT DISTINCT ON (tenant, user_id) * FROM looked_at ORDER BY tenant, user_id, due, id),
receivers AS (
  SELECT d.tenant, d.user_id, coalesce((
    SELECT {_bytes_answered("(data - 'subscriptions')::text")} FROM notifications.preferences p
    WHERE p.tenant = d.tenant AND p.user_id = d.user_id), 0) AS bytes
  FROM firsts JOIN notifications.deliveries d USING (id)
  -- Only if the row is unchanged: another replica may have claimed it since.
  WHERE d.status = firsts.status AND d.due = firsts.due
  ORDER BY firsts.due LIMIT $3::text::integer FOR UPDATE OF d SKIP LOCKED),
theirs AS (
  SELECT one.* FROM receivers CROSS JOIN LATERAL (
    SELECT id, due, {_ROW_BYTES} + receivers.bytes + {_bytes_answered("data::text")} AS bytes
    FROM notifications.deliveries d
    WHERE d.channel = $1 AND d.tenant = receivers.tenant AND d.user_id = receivers.user_id
      AND d.status IN ('pending', 'sending') AND d.due <= now()
    ORDER BY d.due LIMIT $4::text::integer FOR UPDATE SKIP LOCKED) one),
-- If the answer is too large for the sidecar, its rows are claimed but never sent. So a row that is too large
-- by itself fails here, as it would keep others from being claimed, and all claimed rows fit together.
too_large AS (
  UPDATE notifications.deliveries d SET status = 'failed', answer = 'too large to be sent', ended_at = now()
  FROM theirs WHERE d.id = theirs.id AND theirs.bytes > {_MOST_BYTES} RETURNING d.id),
fitting AS (
  SELECT id FROM (SELECT id, bytes, sum(bytes) OVER (ORDER BY due, id) AS upto FROM theirs
    WHERE bytes <= {_MOST_BYTES}) summed
  WHERE upto - bytes < {_BYTES_AT_ONCE} AND upto <= {_MOST_BYTES}),
claimed AS (
  UPDATE notifications.deliveries d SET status = 'sending', attempts = attempts + 1,
    due = now() + $5::text::interval
  FROM fitting WHERE d.id = fitting.id RETURNING d.*)
SELECT json_build_object(
  'claimed', (SELECT coalesce(json_agg(json_build_object(
    'id', c.id, 'tenant', c.tenant, 'user', c.user_id, 'channel', c.channel, 'kind', c.kind,
    'data', c.data, 'attempts', c.attempts, 'traceparent', c.traceparent,
    -- In UTC: the database's own zone may shift a time into a year that Python does not have.
    'occurred', c.occurred AT TIME ZONE 'UTC')
    ORDER BY c.occurred), '[]') FROM claimed c),
  -- Once for each receiver, and without the subscriptions, which are no longer needed and may be large.
  'preferences', (SELECT coalesce(json_agg(json_build_array(tenant, user_id, data - 'subscriptions')), '[]')
    FROM notifications.preferences JOIN (SELECT DISTINCT tenant, user_id FROM claimed) c
      USING (tenant, user_id)),
  'too_large', (SELECT count(*) FROM too_large),
  -- By the time of this statement: a row that becomes due between two statements would be in neither.
  'seconds', CASE WHEN EXISTS (SELECT FROM looked_at) THEN 0 ELSE (
    SELECT extract(epoch FROM due - now()) FROM notifications.deliveries
    WHERE channel = $1 AND status IN ('pending', 'sending') AND due > now()
    ORDER BY due, id LIMIT 1) END)::text"""  # noqa: S608

_END = """
WITH ended AS (
  SELECT * FROM jsonb_to_recordset($1::text::jsonb) AS row (
    id text, attempts integer, status text, due timestamptz, answer text, tried boolean)),
moved AS (
  UPDATE notifications.deliveries d SET status = ended.status,
    answer = CASE WHEN ended.tried THEN ended.answer ELSE d.answer END,
    attempts = CASE WHEN ended.tried THEN d.attempts ELSE d.attempts - 1 END,
    due = coalesce(ended.due, d.due), ended_at = CASE WHEN ended.status = 'pending' THEN NULL ELSE now() END
  -- CASE keeps PostgreSQL from an index of unsent deliveries, which it reads to the end if it expects few.
  FROM ended WHERE d.id = ended.id
    AND CASE d.status WHEN 'sending' THEN d.attempts END = ended.attempts RETURNING d.id)
SELECT count(*)::text FROM moved"""


class _Asked(NamedTuple):
    """A question: which users may want a notice? `after` is the last user of the page before."""

    tenant: str
    kind: str
    concerned: tuple[str, ...]
    addressed: bool
    after: str = ""


class _Interested(NamedTuple):
    """A page of the answer: users in order, with their preferences, and whether `more` follow."""

    since: datetime
    preferences: dict[str, Preferences]
    more: bool


class Receiver(NamedTuple):
    """A user to whom deliveries are sent. To each channel, the same user is a separate receiver."""

    tenant: str
    user: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """A delivery that this process has claimed: until the lease is over, no other process sends it."""

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
    """The receiver's preferences, without the subscriptions."""

    @property
    def receiver(self) -> Receiver:
        """Return the user to whom the delivery is sent."""
        return Receiver(self.tenant, self.user)


@dataclass(frozen=True, slots=True)
class Due:
    """The claimed deliveries, and the `seconds` until more are due; None if no more are known."""

    claimed: list[Claimed]
    seconds: float | None
    too_large: int = 0
    """How many deliveries were too large to be claimed, and have failed instead."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The outcome of a claimed delivery: sent, failed, or pending again until `due`."""

    claimed: Claimed
    status: str
    answer: str
    due: datetime | None = None
    tried: bool = True
    """If false, this does not count as an attempt, and the answer of the last attempt stays."""


class _Outcome(NamedTuple):
    """The outcome of a delivery as a row for the database."""

    id: str
    attempts: int
    status: str
    due: str | None
    answer: str
    tried: bool


class DeliveryLog:
    """Reads and writes the delivery log. All methods raise DatabaseError."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._asked: Gathered[_Asked, _Interested] = Gathered(self._interested)
        self._ended: Gathered[_Outcome, None] = Gathered(self._end)

    async def interested(self, notice: Notice) -> tuple[datetime, dict[str, Preferences]]:
        """Return the time before which notices are ignored, and the preferences of those who may want one."""
        asked = _Asked(notice.tenant, notice.kind, tuple(sorted(notice.concerns)), notice.addressed)
        preferences: dict[str, Preferences] = {}
        while True:
            found = await self._asked.get(asked)
            preferences |= found.preferences
            if not found.more:
                return found.since, preferences
            if found.preferences:
                asked = asked._replace(after=list(found.preferences)[-1])

    async def _interested(self, asked: Sequence[_Asked]) -> dict[_Asked, _Interested]:
        rows = [{"place": place} | one._asdict() for place, one in enumerate(asked)]
        found = await self._database.fetch(_INTERESTED, orjson.dumps(rows).decode())
        since = datetime.fromisoformat(found["since"])
        preferences: list[dict[str, Preferences]] = [{} for _ in asked]
        for place, user, data in found["interested"]:
            preferences[place][user] = Preferences.stored(data)
        return {
            one: _Interested(since, preferences[place], place in found["more"])
            for place, one in enumerate(asked)
        }

    async def add(self, notice: Notice, planned: Sequence[Planned]) -> dict[str, int]:
        """Log planned deliveries; return how many of them are new, by channel."""
        told = {
            "tenant": notice.tenant,
            "event_id": notice.event_id,
            "kind": notice.kind,
            "data": notice.data,
            "occurred": notice.occurred,
            "correlation_id": notice.correlation_id,
            "causation_id": notice.causation_id,
            "traceparent": notice.traceparent,
        }
        rows = [
            {
                "id": str(
                    uuid5(NAMESPACE_URL, f"{notice.tenant}/{notice.event_id}/{one.user}/{one.channel}")
                ),
                "user_id": one.user,
                "channel": one.channel,
                "due": one.due,
            }
            for one in planned
        ]
        added: Counter[str] = Counter()
        for first in range(0, len(rows), _PLANNED_AT_ONCE):
            some = rows[first : first + _PLANNED_AT_ONCE]
            added.update(
                await self._database.fetch(_ADD, orjson.dumps(told).decode(), orjson.dumps(some).decode())
            )
        return dict(added)

    async def claim(
        self, channel: Channel, busy: Collection[Receiver], receivers: int, of_each: int, lease: timedelta
    ) -> Due:
        """Claim due deliveries of at most `receivers` receivers, and at most `of_each` deliveries of each.

        A delivery that is too large for a sidecar's answer fails instead. If this process dies, what it has
        claimed is due again when the lease is over. Deliveries to `busy` receivers are read and passed over.
        """
        found = await self._database.fetch(
            _CLAIM,
            channel,
            orjson.dumps([{"tenant": tenant, "user_id": user} for tenant, user in busy]).decode(),
            str(receivers),
            str(of_each),
            f"{lease.total_seconds()} seconds",
        )
        wants = {Receiver(*whose): Preferences.stored(data) for *whose, data in found["preferences"]}
        claimed = [
            Claimed(
                row["id"],
                row["tenant"],
                row["user"],
                Channel(row["channel"]),
                row["kind"],
                row["data"],
                datetime.fromisoformat(row["occurred"]).replace(tzinfo=UTC),
                row["attempts"],
                row["traceparent"],
                wants.get(Receiver(row["tenant"], row["user"]), Preferences()),
            )
            for row in found["claimed"]
        ]
        return Due(claimed, found["seconds"], found["too_large"])

    async def end(self, ended: Ended) -> None:
        """Log the outcome of a delivery, unless another process has claimed the delivery since."""
        one, answer = ended.claimed, stored_text(ended.answer, 1000)
        due = ended.due.isoformat() if ended.due else None
        await self._ended.get(_Outcome(one.id, one.attempts, ended.status, due, answer, ended.tried))

    async def _end(self, ended: Sequence[_Outcome]) -> dict[_Outcome, None]:
        rows = orjson.dumps([one._asdict() for one in ended]).decode()
        await self._database.fetch(_END, rows)
        return dict.fromkeys(ended)
