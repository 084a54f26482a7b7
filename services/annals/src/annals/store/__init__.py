"""The event store: streams of events, appended atomically, and the log of all commits."""

from annals.store.begun_lanes import BegunLanes
from annals.store.damaged import Damaged
from annals.store.dapr_store import DaprEventReader, DaprEventStore
from annals.store.event_pages import event_pages
from annals.store.export import Export
from annals.store.follower import Follower
from annals.store.lease import ALL_LANES, DOMAIN_LANES, SAGA_LANES
from annals.store.memory import MemoryEventStore
from annals.store.probe import UnfitStore
from annals.store.protocol import (
    Append,
    Appended,
    AppendTooLarge,
    Backpressure,
    Commit,
    ConflictError,
    DuplicateCommand,
    EventReader,
    EventStore,
    Head,
    Outcome,
    OutcomeUnknown,
    StoreError,
    StoreUnavailable,
    StreamUnreadable,
    Undecodable,
)
from annals.store.restore import NotImportable, Restore
from annals.store.sizes import MAX_EVENT_BYTES, require_publishable

__all__ = [
    "ALL_LANES",
    "DOMAIN_LANES",
    "MAX_EVENT_BYTES",
    "SAGA_LANES",
    "Append",
    "AppendTooLarge",
    "Appended",
    "Backpressure",
    "BegunLanes",
    "Commit",
    "ConflictError",
    "Damaged",
    "DaprEventReader",
    "DaprEventStore",
    "DuplicateCommand",
    "EventReader",
    "EventStore",
    "Export",
    "Follower",
    "Head",
    "MemoryEventStore",
    "NotImportable",
    "Outcome",
    "OutcomeUnknown",
    "Restore",
    "StoreError",
    "StoreUnavailable",
    "StreamUnreadable",
    "Undecodable",
    "UnfitStore",
    "event_pages",
    "require_publishable",
]
