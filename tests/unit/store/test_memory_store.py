import pytest

from annals.store import MemoryEventStore
from event_store_conformance import EventStoreConformance


class TestMemoryEventStore(EventStoreConformance):
    @pytest.fixture
    def store(self) -> MemoryEventStore:
        return MemoryEventStore()
