"""Kills a pod of each service while commands and sagas come in."""

from __future__ import annotations

import json

import pytest

from .conftest import REPLICATED, SERVICES, Cluster
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


def test_a_node_that_is_drained_takes_one_pod_of_a_service_at_a_time(cluster: Cluster) -> None:
    def evict(pod: str) -> str:
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod}}
        path = f"/api/v1/namespaces/{cluster.namespace}/pods/{pod}/eviction"
        return cluster.kubectl(
            "create", "--raw", path, "--filename", "-", stdin=json.dumps(body), check=False
        )

    with load(cluster) as found:
        for service in REPLICATED:
            selector = f"app.kubernetes.io/name={service}"
            output = "--output=jsonpath={.items[*].metadata.name}"
            first, second, *_ = cluster.kubectl("get", "pods", "--selector", selector, output).split()
            assert "disruption budget" not in evict(first)
            assert "disruption budget" in evict(second)
        cluster.rolled_out(*REPLICATED)

    assert_nothing_is_missing(found)
