"""A pod of each kind is killed while commands and sagas come in."""

from __future__ import annotations

import pytest

from .conftest import SERVICES, Cluster
from .under_load import assert_nothing_is_missing, load

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_that_is_killed_takes_nothing_with_it(cluster: Cluster, service: str) -> None:
    selector = f"app.kubernetes.io/name={service}"
    names = cluster.kubectl("get", "pods", "--selector", selector, "--output", "name").split()

    with load(cluster) as found:
        cluster.kubectl("delete", names[0], "--force", "--grace-period=0")
        cluster.rolled_out(service)

    assert_nothing_is_missing(found)
