"""Every Prometheus metric of the suite. The names contain the units, as Prometheus recommends."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_UP_TO_AN_HOUR = (*_SECONDS, 30.0, 60.0, 300.0, 600.0, 1_800.0, 3_600.0)
"""For what may be hours late: a quantile is at most the largest bound."""

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

PUBLISH_BACKLOG = Gauge("annals_publish_backlog_commits", "Commits that are stored but not yet published.")
PUBLISH_BACKLOG_AGE = Gauge(
    "annals_publish_backlog_age_seconds", "How long the oldest unpublished commit has waited."
)
PUBLISHED_EVENTS = Counter("annals_published_events_total", "Events that the broker accepted.")
PASSED_OVER_EVENTS = Counter(
    "annals_publish_passed_over_events_total",
    "Events given up because the broker kept refusing them while it accepted others.",
)

PROJECTED_EVENTS = Counter("annals_projection_events_total", "Events applied to the read models.")
PROJECTION_SKIPPED = Counter(
    "annals_projection_skipped_events_total", "Delivered events that had been applied before."
)
PROJECTION_HEALED = Counter(
    "annals_projection_healed_events_total",
    "Events read from the store because no message brought them in time.",
)
PROJECTION_UNREADABLE = Counter(
    "annals_projection_unreadable_messages_total",
    "Messages that could not be read as events and became dead letters.",
)
PROJECTION_LAG = Gauge(
    "annals_projection_lag_commits",
    "Commits in the store, counted in each lane from the first that is missing in the read models.",
)
PROJECTION_SWEPT = Gauge(
    "annals_projection_swept_timestamp_seconds",
    "When the whole store was last compared with the read models and missing events were applied.",
)
PROJECTION_LAG_SECONDS = Histogram(
    "annals_projection_lag_seconds",
    "From an event's time until its read model shows it.",
    buckets=_UP_TO_AN_HOUR,
)

BUILT_EVENTS = Counter(
    "annals_projection_built_events_total",
    "Events applied to tables that are being built and are not live yet.",
    ["read_model"],
)
PROJECTION_POSITION = Gauge(
    "annals_projection_position",
    "The sequence of a lane up to which a read model has all events; `generation` is `live`, or the number"
    " of a generation that is being built.",
    ["read_model", "generation", "lane"],
)
PARKED = Counter(
    "annals_dead_letters_parked_total", "Times that a sequence or message was parked.", ["consumer"]
)
DEAD_LETTERS = Gauge("annals_dead_letters", "Sequences and messages that are parked now.")

SAGA_TRANSITIONS = Counter(
    "annals_saga_transitions_total", "Saga transitions by type of saga and of event.", ["saga", "event"]
)
SAGA_ACTIONS = Counter(
    "annals_saga_actions_total",
    "Tries of saga actions and compensations by step and outcome.",
    ["step", "outcome"],
)

STREAM_CLIENTS = Gauge("annals_stream_clients", "Clients of live streams on this replica.")
STREAM_CUT = Counter("annals_stream_cut_clients_total", "Clients cut off because they were too slow.")
STREAM_REFUSED = Counter("annals_stream_refused_clients_total", "Clients turned away by a full replica.")
NOTIFICATIONS = Counter(
    "annals_notification_deliveries_total",
    "Notices to inboxes, webhook requests and e-mails, by outcome; an e-mail may hold several notices.",
    ["channel", "outcome"],
)
REMINDERS = Counter(
    "annals_reminders_fired_total", "Reminders that fired, by whether they were late.", ["late"]
)
