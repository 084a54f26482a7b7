"""Every Prometheus metric of the suite. The names contain the units, as Prometheus recommends."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

COMMANDS = Counter("annals_commands_total", "Commands by type and outcome.", ["type", "outcome"])
COMMAND_DURATION = Histogram(
    "annals_command_duration_seconds", "From a command's arrival to its outcome.", ["type"], buckets=_SECONDS
)

APPEND_DURATION = Histogram(
    "annals_append_duration_seconds",
    "From an append's call to its commit, waiting included.",
    buckets=_SECONDS,
)
APPEND_BATCH_SIZE = Histogram(
    "annals_append_batch_commits", "Commits in one transaction.", buckets=(1, 2, 4, 8, 16, 32, 64)
)

PUBLISH_BACKLOG = Gauge("annals_publish_backlog_commits", "Commits that are stored and not yet published.")
PUBLISH_BACKLOG_AGE = Gauge(
    "annals_publish_backlog_age_seconds", "For how long the oldest of them has waited."
)
PUBLISHED_EVENTS = Counter("annals_published_events_total", "Events that the broker took.")
PASSED_OVER_EVENTS = Counter(
    "annals_publish_passed_over_events_total",
    "Events that were not published because the broker refused them, and only them, each time.",
)

PROJECTED_EVENTS = Counter("annals_projection_events_total", "Events applied to the read models.")
PROJECTION_SKIPPED = Counter(
    "annals_projection_skipped_events_total", "Events delivered that were applied before."
)
PROJECTION_HEALED = Counter(
    "annals_projection_healed_events_total", "Events that no message brought in time and the store did."
)
PROJECTION_UNREADABLE = Counter(
    "annals_projection_unreadable_messages_total", "Messages sent on to the dead letters unread."
)
PROJECTION_LAG = Gauge(
    "annals_projection_lag_commits",
    "Commits in the store, counted in each lane from the first that is missing in the read models.",
)
PROJECTION_SWEPT = Gauge(
    "annals_projection_swept_timestamp_seconds",
    "When the whole store was last compared with the read models, and what was missing applied.",
)
PROJECTION_LAG_SECONDS = Histogram(
    "annals_projection_lag_seconds", "From an event's time to its being visible.", buckets=_SECONDS
)

BUILT_EVENTS = Counter(
    "annals_projection_built_events_total",
    "Events that tables which are not live were filled with.",
    ["read_model"],
)
PROJECTION_POSITION = Gauge(
    "annals_projection_position",
    "The sequence of a lane up to which a read model has everything; `generation` is live, or the number"
    " of one that is being built.",
    ["read_model", "generation", "lane"],
)
PARKED = Counter("annals_dead_letters_parked_total", "Times that something was parked.", ["consumer"])
DEAD_LETTERS = Gauge("annals_dead_letters", "Sequences and messages that are parked now.")

SAGA_TRANSITIONS = Counter(
    "annals_saga_transitions_total", "Transitions of sagas by their type and the event's.", ["saga", "event"]
)
SAGA_ACTIONS = Counter(
    "annals_saga_actions_total", "Tries of sagas' actions and compensations.", ["step", "outcome"]
)

STREAM_CLIENTS = Gauge("annals_stream_clients", "Clients of live streams on this replica.")
STREAM_CUT = Counter("annals_stream_cut_clients_total", "Clients cut off because they were too slow.")
STREAM_REFUSED = Counter("annals_stream_refused_clients_total", "Clients turned away by a full replica.")
NOTIFICATIONS = Counter(
    "annals_notification_deliveries_total",
    "Tries of deliveries by channel and outcome.",
    ["channel", "outcome"],
)
REMINDERS = Counter("annals_reminders_fired_total", "Reminders that fired, and whether late.", ["late"])
