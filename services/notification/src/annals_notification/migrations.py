"""The tables of the service, in numbered steps. A step that has run anywhere is never changed."""

from __future__ import annotations

SCHEMA = "notifications"
LOCK = 4707280153
"""The advisory lock by which replicas that start together take turns; another than those of the projector."""
PING = "UPDATE notifications.service SET since = since RETURNING '1'::text"
"""A write that changes nothing: see `annals.dapr.BindingDatabase`."""

MIGRATIONS: tuple[str, ...] = (
    """
CREATE TABLE notifications.preferences (
  tenant text, user_id text, data jsonb NOT NULL, webhook_failures integer NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, user_id));
CREATE TABLE notifications.deliveries (
  id text PRIMARY KEY, tenant text NOT NULL, event_id text NOT NULL, user_id text NOT NULL,
  channel text NOT NULL, kind text NOT NULL, data jsonb NOT NULL, occurred timestamptz NOT NULL,
  correlation_id text, traceparent text, status text NOT NULL, due timestamptz NOT NULL,
  attempts integer NOT NULL DEFAULT 0, answer text, created_at timestamptz NOT NULL DEFAULT now(),
  ended_at timestamptz);
CREATE UNIQUE INDEX deliveries_once ON notifications.deliveries (tenant, event_id, user_id, channel);
CREATE INDEX deliveries_due ON notifications.deliveries (due) WHERE status IN ('pending', 'sending');
CREATE INDEX deliveries_user ON notifications.deliveries (tenant, user_id, created_at, id);
CREATE TABLE notifications.inbox (
  tenant text, user_id text, id text, kind text NOT NULL, data jsonb NOT NULL,
  created_at timestamptz NOT NULL DEFAULT now(), read_at timestamptz, PRIMARY KEY (tenant, user_id, id));
CREATE INDEX inbox_page ON notifications.inbox (tenant, user_id, created_at, id);
CREATE TABLE notifications.service (one integer PRIMARY KEY CHECK (one = 1), since timestamptz NOT NULL);
INSERT INTO notifications.service VALUES (1, now());
""",
    """
CREATE TABLE notifications.reminders (
  tenant text, id text, task_id text NOT NULL, user_id text, kind text NOT NULL, title text NOT NULL,
  due timestamptz NOT NULL, fires timestamptz NOT NULL, status text NOT NULL, late boolean,
  version bigint NOT NULL, fired_at timestamptz, PRIMARY KEY (tenant, id));
CREATE INDEX reminders_fires ON notifications.reminders (fires) WHERE status = 'scheduled';
CREATE INDEX reminders_task ON notifications.reminders (tenant, task_id);
CREATE TABLE notifications.recurrences (
  tenant text, id text, data jsonb NOT NULL, next timestamptz, occurrences bigint NOT NULL DEFAULT 0,
  last timestamptz, last_error text, created_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (tenant, id));
CREATE INDEX recurrences_next ON notifications.recurrences (next);
CREATE TABLE notifications.held_events (
  tenant text, id text, topic text NOT NULL, event jsonb NOT NULL, due timestamptz NOT NULL,
  published_at timestamptz, PRIMARY KEY (tenant, id));
CREATE INDEX held_events_due ON notifications.held_events (due) WHERE published_at IS NULL;
""",
    """
CREATE INDEX deliveries_correlation ON notifications.deliveries (tenant, correlation_id, created_at, id);
""",
    """
ALTER TABLE notifications.deliveries ADD COLUMN causation_id text;
ALTER TABLE notifications.reminders ADD COLUMN correlation_id text, ADD COLUMN causation_id text;
""",
    """
CREATE INDEX deliveries_page ON notifications.deliveries (tenant, created_at, id);
CREATE INDEX reminders_page ON notifications.reminders (tenant, fires, id);
CREATE INDEX reminders_user ON notifications.reminders (tenant, user_id, fires, id);
CREATE INDEX preferences_of_all ON notifications.preferences (tenant)
  WHERE data @? '$.subscriptions[*] ? (@.mine == false)';
-- The newest of those that begin with the tenant: while a table is empty PostgreSQL takes that one.
DROP INDEX notifications.reminders_task;
CREATE INDEX reminders_task ON notifications.reminders (tenant, task_id);
CREATE INDEX recurrences_page ON notifications.recurrences (tenant, created_at, id);
CREATE INDEX inbox_unread ON notifications.inbox (tenant, user_id, created_at, id) WHERE read_at IS NULL;
""",
    """
ALTER TABLE notifications.service ADD COLUMN forgotten timestamptz, ADD COLUMN moved_at timestamptz;
CREATE INDEX deliveries_ended ON notifications.deliveries (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX inbox_read ON notifications.inbox (read_at) WHERE read_at IS NOT NULL;
CREATE INDEX reminders_over ON notifications.reminders (fires) WHERE status <> 'scheduled';
CREATE INDEX held_events_published ON notifications.held_events (published_at)
  WHERE published_at IS NOT NULL;
""",
    """
CREATE INDEX deliveries_waiting ON notifications.deliveries (channel, due, id)
  WHERE status IN ('pending', 'sending');
CREATE INDEX deliveries_of_receiver ON notifications.deliveries (tenant, user_id, channel, due)
  WHERE status IN ('pending', 'sending');
DROP INDEX notifications.deliveries_due;
""",
    """
-- A channel could be named without end.
UPDATE notifications.preferences SET data = jsonb_set(data, '{subscriptions}', (
  SELECT coalesce(jsonb_agg(one || jsonb_build_object('channels', (
      SELECT jsonb_agg(DISTINCT channel) FROM jsonb_array_elements(one -> 'channels') channel))), '[]')
    FROM jsonb_array_elements(data -> 'subscriptions') one))
WHERE octet_length(data::text) > 65536;
""",
)
