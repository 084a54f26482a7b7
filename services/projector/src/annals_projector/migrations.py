"""The tables beside the read models, in numbered steps. Never change a step that has run anywhere.

The read models' own tables are made from their projections: see `annals.projections.tables`.
"""

from __future__ import annotations

SCHEMA = "readmodels"
LOCK = 4707280151
"""The advisory lock by which replicas that start together take turns."""

MIGRATIONS: tuple[str, ...] = (
    """
CREATE TABLE readmodels.lane_checkpoints (lane integer PRIMARY KEY, seq bigint NOT NULL);
CREATE TABLE readmodels.event_index (
  tenant text NOT NULL, stream text NOT NULL, version bigint NOT NULL,
  lane integer NOT NULL, seq bigint NOT NULL,
  event_id text NOT NULL, event_type text NOT NULL, time timestamptz NOT NULL,
  correlation_id text, causation_id text, user_id text, trace_id text,
  session_id text, source text, client text,
  PRIMARY KEY (lane, seq, version));
CREATE UNIQUE INDEX event_index_event_id ON readmodels.event_index (tenant, event_id);
CREATE INDEX event_index_time ON readmodels.event_index (tenant, time, event_id);
CREATE INDEX event_index_type ON readmodels.event_index (tenant, event_type, time, event_id);
CREATE INDEX event_index_stream ON readmodels.event_index (tenant, stream, time, event_id);
CREATE INDEX event_index_correlation ON readmodels.event_index (tenant, correlation_id, time, event_id);
CREATE INDEX event_index_user ON readmodels.event_index (tenant, user_id, time, event_id);
CREATE INDEX event_index_trace ON readmodels.event_index (tenant, trace_id, time, event_id);
""",
    """
CREATE TABLE readmodels.generations (
  read_model text, number integer, version integer NOT NULL, status text NOT NULL,
  reason text NOT NULL, automatic boolean NOT NULL, caught_up boolean NOT NULL, throttle integer,
  started_at timestamptz NOT NULL DEFAULT now(), switched_at timestamptz,
  owner text, expires timestamptz,
  PRIMARY KEY (read_model, number));
CREATE UNIQUE INDEX generations_live ON readmodels.generations (read_model) WHERE status = 'live';
CREATE TABLE readmodels.build_progress (
  read_model text, number integer, lane integer, seq bigint NOT NULL,
  PRIMARY KEY (read_model, number, lane));
""",
    # When an event became visible to queries; null for events that were indexed before this step.
    """
ALTER TABLE readmodels.event_index ADD COLUMN visible_at timestamptz;
ALTER TABLE readmodels.event_index ALTER COLUMN visible_at SET DEFAULT clock_timestamp();
""",
    # When a fill began that left a generation complete. A generation that went live before this step is
    # filled once more from where it was, because it may lack events.
    """
ALTER TABLE readmodels.generations ADD COLUMN filled_at timestamptz;
""",
)
