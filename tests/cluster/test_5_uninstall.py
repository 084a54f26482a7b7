"""What an uninstalled release leaves behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from .conftest import NAMESPACE, SERVICES, Cluster, namespace, run

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]

KEYS = {"audit-signing-key", "audit-public-keys", "personal-data-keys"}
SERVERS = {
    "kafkas.kafka.strimzi.io",
    "kafkanodepools.kafka.strimzi.io",
    "kafkatopics.kafka.strimzi.io",
    "kafkausers.kafka.strimzi.io",
    "clusters.postgresql.cnpg.io",
}


def kinds() -> list[str]:
    """Return the kinds that a namespace may hold, except events and metrics, which describe others."""
    names = run("kubectl", "api-resources", "--namespaced", "--verbs=list", "--output=name").split()
    return [name for name in names if not name.startswith("events") and not name.endswith(".metrics.k8s.io")]


def bundled_servers(cluster: Cluster) -> set[str]:
    """Return the uids of the bundled servers' resources; none if their operators are not installed."""
    if not (there := SERVERS & {*kinds()}):
        return set()
    return {*cluster.kubectl("get", ",".join(there), "--output=jsonpath={.items[*].metadata.uid}").split()}


def of_bundled_servers(found: Sequence[dict[str, Any]]) -> set[str]:
    """Return the uids of the bundled servers' resources and of everything their operators made for them."""
    operators = ("strimzi.io/", "cnpg.io/")
    servers = ("kafka.strimzi.io/", "postgresql.cnpg.io/")
    uids = {
        one["metadata"]["uid"]
        for one in found
        if any(label.startswith(operators) for label in one["metadata"].get("labels", {}))
        or one["apiVersion"].startswith(servers)
    }
    while (
        owned := {
            one["metadata"]["uid"]
            for one in found
            if uids & {owner["uid"] for owner in one["metadata"].get("ownerReferences", ())}
        }
        - uids
    ):
        uids |= owned
    return uids


def left(cluster: Cluster) -> set[str]:
    """Return everything of the chart that is left, in the namespace or labelled in the cluster.

    Bundled servers are left out.
    """
    found = json.loads(cluster.kubectl("get", ",".join(kinds()), "--output", "json"))["items"]
    servers = of_bundled_servers(found)
    own = {
        f"{one['kind']}/{one['metadata']['name']}"
        for one in found
        if one["metadata"]["uid"] not in servers
        and one["metadata"]["name"] not in ("kube-root-ca.crt", "default")
        and not one["metadata"]["name"].startswith("sh.helm.release")
    }
    labelled = run(
        "kubectl",
        "get",
        "clusterroles,clusterrolebindings,priorityclasses",
        "--selector=app.kubernetes.io/part-of=annals",
        "--output=name",
    )
    return own | set(labelled.split())


def test_an_uninstalled_release_leaves_its_keys_and_bundled_servers_alone(values: Sequence[str]) -> None:
    # Without pods, so that this release does not share the broker's consumers with the other one.
    none = (*SERVICES, "toolbox")
    empty = [part for name in none for part in ("--set", f"services.{name}.replicas=0")]
    empty += ["--set", "zipkin.bundled=false"]
    with namespace(f"{NAMESPACE}-uninstall", values) as cluster:
        cluster.install(*empty)
        assert len(left(cluster)) > len(KEYS)
        servers = bundled_servers(cluster)

        cluster.helm("uninstall", "annals", "--wait")
        assert left(cluster) == {f"Secret/{key}" for key in KEYS}
        assert bundled_servers(cluster) == servers

        before = cluster.kubectl("get", "secret", "personal-data-keys", "--output=jsonpath={.data}")
        cluster.install(*empty)
        assert cluster.kubectl("get", "secret", "personal-data-keys", "--output=jsonpath={.data}") == before
        assert bundled_servers(cluster) == servers
        cluster.helm("uninstall", "annals", "--wait")
