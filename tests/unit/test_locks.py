"""What takes turns in a database waits only for its own kind: the services share the database."""

from __future__ import annotations

from annals.projections import tables
from annals_notification import migrations as notifications
from annals_projector import migrations as read_models


def test_each_kind_of_change_to_the_tables_has_a_lock_of_its_own() -> None:
    locks = (read_models.LOCK, tables.LOCK, notifications.LOCK)
    assert len({*locks}) == len(locks)
