"""What Helm does to an existing release: upgrades, a rollback, an uninstallation."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from .cluster import Cluster, serving
from .conftest import CHART, Refused

KEYS = ("audit-public-keys", "audit-signing-key", "personal-data-keys")
ROTATED = base64.b64encode(b"new,old").decode()

Helm = Callable[..., None]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with serving() as one:
        yield one


@pytest.fixture
def run(helm: Path, cluster: Cluster, credentials: Mapping[str, Any], tmp_path: Path) -> Helm:
    """Return a function that runs Helm on the cluster; an upgrade takes values and, if given, a chart."""

    def ran(action: str, *argv: str, chart: Path = CHART, **values: Any) -> None:
        given = {"credentials": credentials, "settings": {"create": False}, **values}
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(given))
        if action == "upgrade":
            argv = (str(chart), "--install", "--values", str(file), *argv)
        result = subprocess.run(
            [
                helm,
                action,
                "annals",
                *argv,
                "--namespace",
                "here",
                "--kube-apiserver",
                cluster.url,
                "--qps=1000",
            ],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"KUBECONFIG": os.devnull, "KUBECACHEDIR": str(tmp_path)},
        )
        if result.returncode:
            raise Refused(result.stderr)

    return ran


def keys(cluster: Cluster) -> dict[str, str]:
    return {key: cluster[f"secrets/{key}"]["data"][key] for key in KEYS if f"secrets/{key}" in cluster}


def rotate(cluster: Cluster) -> None:
    cluster["secrets/personal-data-keys"]["data"]["personal-data-keys"] = ROTATED


def test_keys_are_made_once(cluster: Cluster, run: Helm) -> None:
    run("upgrade")
    made = keys(cluster)
    run("upgrade")

    assert len(made) == len(KEYS)
    assert keys(cluster) == made


def test_a_rollback_does_not_undo_a_rotation_of_keys(cluster: Cluster, run: Helm) -> None:
    run("upgrade")
    run("upgrade")
    rotate(cluster)
    run("upgrade")

    run("rollback", "2")
    assert keys(cluster)["personal-data-keys"] == ROTATED
    run("rollback", "1")
    assert keys(cluster)["personal-data-keys"] == ROTATED


def test_an_uninstalled_release_leaves_its_keys_and_another_takes_them_over(
    cluster: Cluster, run: Helm
) -> None:
    run("upgrade")
    made = keys(cluster)

    run("uninstall")
    assert {path.rpartition("/")[2] for path in cluster.objects} == set(KEYS)
    run("upgrade")
    assert keys(cluster) == made


def test_keys_that_shall_not_be_kept_go_with_the_release(cluster: Cluster, run: Helm) -> None:
    run("upgrade", keys={"keep": False})
    assert len(keys(cluster)) == len(KEYS)

    run("uninstall")

    assert cluster.objects == {}


BUNDLED = {"kafka": {"bundled": True}, "postgresql": {"bundled": True}}
SERVERS = {"Cluster", "Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"}


def test_bundled_servers_stay_with_what_is_in_them_and_another_release_takes_them_over(
    cluster: Cluster, run: Helm
) -> None:
    run("upgrade", **BUNDLED)
    servers = {path for path, one in cluster.objects.items() if one["kind"] in SERVERS}
    assert {cluster.objects[path]["kind"] for path in servers} == SERVERS
    for path in servers:
        cluster.objects[path]["status"] = {"clusterId": path}  # what its operator records about it

    run("uninstall")
    assert {path for path in cluster.objects if path.rpartition("/")[2] not in KEYS} == servers

    run("upgrade", **BUNDLED)
    run("upgrade", **BUNDLED | {"postgresql": {"bundled": True, "maxConnections": 900}})
    assert {path: cluster.objects[path]["status"]["clusterId"] for path in servers} == {
        path: path for path in servers
    }
    database = cluster["clusters/annals-postgres"]["spec"]["postgresql"]
    assert database["parameters"]["max_connections"] == "900"


def test_an_upgrade_that_is_without_the_bundled_servers_leaves_them(cluster: Cluster, run: Helm) -> None:
    run("upgrade", **BUNDLED)
    run("upgrade")

    assert {one["kind"] for one in cluster.objects.values()} >= SERVERS


def test_bundled_servers_go_where_the_keys_do(cluster: Cluster, run: Helm) -> None:
    run("upgrade", keys={"keep": False}, **BUNDLED)
    disks = cluster["kafkanodepools/annals-kafka"]["spec"]["storage"]
    assert disks["deleteClaim"] is True

    run("uninstall")

    assert cluster.objects == {}


@pytest.mark.parametrize("missing", ["audit-signing-key", "audit-public-keys"])
def test_half_of_the_signing_keys_is_not_made_anew(cluster: Cluster, run: Helm, missing: str) -> None:
    run("upgrade")
    path = f"/api/v1/namespaces/here/secrets/{missing}"
    del cluster.objects[path]

    with pytest.raises(Refused, match=f"{missing}.*restore it"):
        run("upgrade")
    assert path not in cluster.objects


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """Return the chart as it was when a release held the keys in its manifest."""
    chart = tmp_path / "before"
    shutil.copytree(CHART, chart)
    (chart / "templates" / "keys.yaml").write_text(
        """
{{- range $name := list "audit-public-keys" "audit-signing-key" "personal-data-keys" }}
{{- $there := lookup "v1" "Secret" $.Release.Namespace $name }}
---
apiVersion: v1
kind: Secret
metadata:
  name: {{ $name }}
  {{- if $.Values.keys.keep }}
  annotations: {helm.sh/resource-policy: keep}
  {{- end }}
data:
  {{ $name }}: {{ if $there }}{{ get $there.data $name }}{{ else }}{{ randBytes 32 | b64enc }}{{ end }}
{{- end }}
"""
    )
    return chart


def test_an_upgrade_from_a_release_that_held_the_keys_keeps_them(
    cluster: Cluster, run: Helm, before: Path
) -> None:
    run("upgrade", chart=before)
    made = keys(cluster)
    run("upgrade")
    assert keys(cluster) == made

    rotate(cluster)
    run("upgrade")
    run("rollback", "2")

    assert keys(cluster) == made | {"personal-data-keys": ROTATED}


@pytest.mark.parametrize("values", [{"keep": False}, {"create": False}])
def test_an_upgrade_that_would_delete_the_keys_is_refused(
    cluster: Cluster, run: Helm, before: Path, values: dict[str, bool]
) -> None:
    run("upgrade", chart=before, keys={"keep": False})
    made = keys(cluster)

    with pytest.raises(Refused, match=r"kubectl annotate .* helm\.sh/resource-policy=keep"):
        run("upgrade", keys=values)
    assert keys(cluster) == made

    for key in KEYS:
        cluster[f"secrets/{key}"]["metadata"]["annotations"]["helm.sh/resource-policy"] = "keep"
    run("upgrade", keys=values)
    assert keys(cluster) == made


def test_an_upgrade_leaves_as_many_replicas_as_are_scaled(cluster: Cluster, run: Helm) -> None:
    scaled = {"kind": "hpa", "minReplicas": 3}
    run("upgrade")
    assert cluster["deployments/annals-command"]["spec"]["replicas"] == 3

    run("upgrade", autoscaling=scaled)
    assert cluster["deployments/annals-command"]["spec"]["replicas"] == 3

    cluster["deployments/annals-command"]["spec"]["replicas"] = 7
    run("upgrade", autoscaling=scaled)
    run("upgrade", autoscaling=scaled)
    assert cluster["deployments/annals-command"]["spec"]["replicas"] == 7


def test_no_upgrade_takes_the_tokens_from_running_pods(cluster: Cluster, run: Helm) -> None:
    def tokens() -> dict[str, str]:
        secrets = {path.rpartition("/")[2]: one for path, one in cluster.objects.items()}
        return {name: one["data"]["token"] for name, one in secrets.items() if name.endswith("-token")}

    run("upgrade")
    made = tokens()
    with pytest.raises(Refused, match=r"kubectl annotate .*-token helm\.sh/resource-policy=keep"):
        run("upgrade", tokens={"create": False})

    for name in made:
        cluster[f"secrets/{name}"]["metadata"]["annotations"]["helm.sh/resource-policy"] = "keep"
    run("upgrade", tokens={"create": False})
    assert tokens() == made


def test_keys_that_another_release_made_are_nobody_elses(cluster: Cluster, run: Helm) -> None:
    run("upgrade", keys={"keep": False})
    made = keys(cluster)
    for key in KEYS:
        annotations = cluster[f"secrets/{key}"]["metadata"].setdefault("annotations", {})
        annotations["meta.helm.sh/release-name"] = "platform-secrets"
    run("upgrade", keys={"create": False})
    assert keys(cluster) == made
