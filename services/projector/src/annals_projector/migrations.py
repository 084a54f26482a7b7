"""The tables of the read models, in numbered steps. A step that has run anywhere is never changed."""

from __future__ import annotations

SCHEMA = "readmodels"
LOCK = 4707280151
"""The advisory lock by which replicas that start together take turns."""

MIGRATIONS: tuple[str, ...] = (
    """
CREATE TABLE readmodels.stream_versions (
  tenant text, stream text, version bigint NOT NULL, prior bigint NOT NULL,
  PRIMARY KEY (tenant, stream));
CREATE TABLE readmodels.lane_checkpoints (lane integer PRIMARY KEY, seq bigint NOT NULL);
CREATE TABLE readmodels.event_index (
  tenant text NOT NULL, stream text NOT NULL, version bigint NOT NULL,
  lane integer NOT NULL, seq bigint NOT NULL,
  event_id text NOT NULL, event_type text NOT NULL, time timestamptz NOT NULL,
  correlation_id text, causation_id text, user_id text, trace_id text,
  PRIMARY KEY (lane, seq, version));
CREATE UNIQUE INDEX event_index_event_id ON readmodels.event_index (tenant, event_id);
CREATE INDEX event_index_time ON readmodels.event_index (tenant, time, event_id);
CREATE INDEX event_index_type ON readmodels.event_index (tenant, event_type, time, event_id);
CREATE INDEX event_index_correlation ON readmodels.event_index (tenant, correlation_id, time, event_id);
CREATE INDEX event_index_user ON readmodels.event_index (tenant, user_id, time, event_id);
""",
    """
CREATE TABLE readmodels.tasks (
  tenant text, id text, version bigint NOT NULL, title text NOT NULL, description text,
  status text NOT NULL, priority text NOT NULL, tags jsonb NOT NULL, due timestamptz, assignee text,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, completed_at timestamptz,
  PRIMARY KEY (tenant, id));
CREATE INDEX tasks_created ON readmodels.tasks (tenant, created_at, id);
CREATE INDEX tasks_assignee ON readmodels.tasks (tenant, assignee, created_at, id);
CREATE INDEX tasks_status ON readmodels.tasks (tenant, status, created_at, id);
CREATE INDEX tasks_due ON readmodels.tasks (tenant, due, id);
CREATE INDEX tasks_tags ON readmodels.tasks USING gin (tags);
CREATE INDEX tasks_text ON readmodels.tasks
  USING gin (to_tsvector('simple', title || ' ' || left(coalesce(description, ''), 100000)));
CREATE TABLE readmodels.members (
  tenant text, id text, version bigint NOT NULL, name text NOT NULL,
  capacity integer NOT NULL, reserved integer NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL,
  PRIMARY KEY (tenant, id));
CREATE INDEX members_created ON readmodels.members (tenant, created_at, id);
""",
    "ALTER TABLE readmodels.tasks ADD COLUMN previous_assignee text;",
    """
CREATE TABLE readmodels.sagas (
  tenant text, id text, version bigint NOT NULL, type text NOT NULL, saga_version integer NOT NULL,
  status text NOT NULL, business_key text, parent text, user_id text, correlation_id text,
  input jsonb NOT NULL, step_names jsonb NOT NULL, steps jsonb NOT NULL, waits_for jsonb, reason text,
  remaining jsonb, output jsonb, suspended boolean NOT NULL,
  created_at timestamptz NOT NULL, updated_at timestamptz NOT NULL, ended_at timestamptz,
  PRIMARY KEY (tenant, id));
CREATE INDEX sagas_created ON readmodels.sagas (tenant, created_at, id);
CREATE INDEX sagas_business_key ON readmodels.sagas (tenant, business_key, created_at, id);
CREATE INDEX sagas_status ON readmodels.sagas (tenant, status, created_at, id);
CREATE INDEX sagas_parent ON readmodels.sagas (tenant, parent, created_at, id);
""",
)
