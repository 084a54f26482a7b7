"""Replaces every pod while commands and sagas come in."""

from __future__ import annotations

import pytest

from .conftest import SERVICES, Cluster
from .under_load import assert_nothing_is_missing, load
from .waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3000)]

_CHANGED = [f"services.{name}.env.ANNALS_LOG_LEVEL=warning" for name in SERVICES]


def test_a_rolling_upgrade_loses_no_command_no_event_and_no_saga(cluster: Cluster) -> None:
    def pods() -> set[str]:
        selector = f"app.kubernetes.io/name in ({','.join(SERVICES)})"
        return set(cluster.kubectl("get", "pods", "--selector", selector, "--output", "name").split())

    before = pods()
    with load(cluster) as found:
        cluster.install(*(part for one in _CHANGED for part in ("--set", one)))
        cluster.rolled_out()

    # An old pod stays until it has handed over its work in progress.
    eventually(lambda: not pods() & before, "no pod is of before")
    assert_nothing_is_missing(found)
