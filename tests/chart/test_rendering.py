"""The chart renders to manifests that a cluster accepts, for every broker and store."""

from __future__ import annotations

import base64
import re
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from annals.store import DOMAIN_LANES, SAGA_LANES
from suite.paths import ROOT

from .conftest import (
    BROKERS,
    CHART,
    EVERYTHING,
    STORES,
    Manifest,
    Refused,
    Render,
    metadata,
    of_broker,
    of_kind,
)
from .schemas import check

TOPICS = ("domain-events", "saga-events", "integration-events", "dead-letters")
"""The components of a broker."""


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("broker", BROKERS)
def test_every_broker_and_store_renders_to_valid_manifests(render: Render, broker: str, store: str) -> None:
    for manifest in render({**of_broker(broker), "store": store}):
        check(manifest)


@pytest.mark.parametrize("scaling", ["none", "hpa", "keda"])
def test_all_options_together_render_to_valid_manifests(render: Render, scaling: str) -> None:
    manifests = render({**EVERYTHING, "autoscaling": {"kind": scaling}})

    for manifest in manifests:
        check(manifest)
    kind = {"none": None, "hpa": "HorizontalPodAutoscaler", "keda": "ScaledObject"}[scaling]
    scaled = of_kind(manifests, kind) if kind else {}
    fixed = {
        name for name, one in of_kind(manifests, "Deployment").items() if one["spec"].get("replicas") == 3
    }
    services = {f"annals-{name}" for name in ("command", "projector", "saga-orchestrator", "notification")}
    assert (fixed, set(scaled)) == ((services, set()) if scaling == "none" else (set(), services))


@pytest.mark.parametrize("broker", BROKERS)
def test_the_components_are_those_of_the_files(render: Render, broker: str) -> None:
    files = [
        *(ROOT / "components" / "shared").glob("*.yaml"),
        ROOT / "components" / "brokers" / broker / "pubsub.yaml",
        *(ROOT / "components" / "stores" / "postgresql").glob("*.yaml"),
    ]
    expected = {}
    for path in files:
        for one in yaml.safe_load_all(path.read_text()):
            expected[one["kind"], one["metadata"]["name"]] = one

    manifests = render(of_broker(broker))

    got = {
        (one["kind"], one["metadata"]["name"]): one
        for one in manifests
        if one["apiVersion"].startswith("dapr.io/")
        and one["kind"] not in ("Configuration", "WorkflowAccessPolicy")
    }
    assert got.keys() == expected.keys()
    for key, one in got.items():
        assert one.get("scopes") == expected[key].get("scopes")
        assert one["metadata"]["namespace"] == "here"
        if key[0] != "Component":
            assert one["spec"] == expected[key]["spec"]
        elif one["spec"]["type"] != "secretstores.kubernetes":
            assert one["spec"]["type"] == expected[key]["spec"]["type"]
            added = {"allowedTopics", "publishingScopes", "subscriptionScopes"}
            assert metadata(one).keys() - added == metadata(expected[key]).keys()


def test_secret_references_lead_to_secrets_of_the_release_or_to_existing_ones(render: Render) -> None:
    manifests = render({"credentials": {"postgres": {"existingSecret": "database", "key": "uri"}}})

    store = metadata(of_kind(manifests, "Component")["eventstore"])
    assert store["connectionString"] == {"name": "database", "key": "uri"}
    assert "annals-postgres" not in of_kind(manifests, "Secret")
    broker = metadata(of_kind(manifests, "Component")["domain-events"])
    assert broker["brokers"] == {"name": "annals-kafka", "key": "kafka"}
    assert "kafka" in of_kind(manifests, "Secret")["annals-kafka"]["data"]


def test_a_component_can_be_given_what_its_file_does_not_say(render: Render) -> None:
    manifests = render(
        {"components": {"eventstore": {"metadata-x": {"value": "1"}, "maxConns": {"value": "5"}}}}
    )

    store = metadata(of_kind(manifests, "Component")["eventstore"])
    assert (store["metadata-x"], store["maxConns"]) == ("1", "5")


def test_a_credential_that_a_component_is_given_otherwise_is_not_asked_for(render: Render) -> None:
    reference = {"name": "login", "key": "user"}
    own = {topic: {"saslUsername": {"secretKeyRef": reference}} for topic in TOPICS}
    nothing = {"credentials": {"kafka-user": {"value": ""}}}

    manifests = render({**nothing, "components": own})

    for topic in TOPICS:
        assert metadata(of_kind(manifests, "Component")[topic])["saslUsername"] == reference
    assert "annals-kafka-user" not in of_kind(manifests, "Secret")


def test_another_login_at_kafka_needs_no_user(render: Render) -> None:
    login = ("kafka-user", "kafka-password")
    values = {
        "components": {topic: {"authType": {"value": "awsiam"}} for topic in TOPICS},
        "credentials": {name: {"value": "", "optional": True} for name in login},
    }

    components = of_kind(render(values), "Component")

    assert {metadata(components[topic])["authType"] for topic in TOPICS} == {"awsiam"}


@pytest.mark.parametrize("values", [{"broker": "pigeon"}, {"store": "sqlite"}, {"brokr": "kafka"}])
def test_what_no_cluster_could_run_is_refused(render: Render, values: dict[str, str]) -> None:
    with pytest.raises(Refused, match=r"values don't meet the specifications of the schema"):
        render(values)


def test_a_component_that_is_not_there_is_refused(render: Render) -> None:
    with pytest.raises(
        Refused, match=r"components\.evenstore: there is no such component; there are .*eventst"
    ):
        render({"components": {"evenstore": {"maxConns": {"value": "5"}}}})


@pytest.mark.parametrize("component", ["eventstore", "workflowstore"])
def test_one_database_of_a_suite_is_not_named_without_the_other(render: Render, component: str) -> None:
    """Two suites on one MySQL server would share the database that is not named."""
    one = {component: {"schemaName": {"value": "annals_staging"}}}
    other = {"eventstore": "workflowstore", "workflowstore": "eventstore"}[component]
    with pytest.raises(Refused, match=rf"components.{other}.schemaName"):
        render({"store": "mysql", "components": one})
    render({"store": "mysql", "components": one | {other: {"schemaName": {"value": "annals_other"}}}})


def test_an_ingress_that_would_lead_nowhere_is_refused(render: Render) -> None:
    with pytest.raises(Refused, match=r"ingress\.enabled: no service is enabled that has `edge: true`"):
        render({"ingress": {"enabled": True}})


def test_an_ingress_whose_every_request_would_be_refused_is_refused(render: Render) -> None:
    values = {"services": {"console": {"enabled": True, "env": {"ANNALS_AUTH": "development"}}}}
    with pytest.raises(Refused, match=r"ingress\.host: with ANNALS_AUTH=development"):
        render({**values, "ingress": {"enabled": True}})
    render({**values, "ingress": {"enabled": True, "host": "localhost"}})


@pytest.mark.parametrize("topic", ["integration-events", "pigeons"])
def test_a_topic_whose_component_an_app_cannot_use_is_refused(render: Render, topic: str) -> None:
    own = {"enabled": True, "port": 8010, "replicas": 2, "publishes": [topic], "allow": []}
    with pytest.raises(Refused, match=rf"billing is not among the scopes of a component {topic}"):
        render({"services": {"billing": own}})
    render({"services": {"billing": {**own, "enabled": False}}})


def test_a_path_that_would_not_count_is_refused(render: Render) -> None:
    rule = {"from": "console", "verbs": ["GET"], "paths": ["/sagas"]}
    with pytest.raises(Refused, match="the second entry would have no effect"):
        render({"services": {"saga-orchestrator": {"allow": [rule, {**rule, "verbs": ["POST"]}]}}})


def allowing(*paths: str) -> dict[str, Any]:
    """Return values that allow the console a request with the first path, and another with the second."""
    verbs = ("GET", "POST")
    rules = [
        {"from": "console", "verbs": [verb], "paths": [path]}
        for verb, path in zip(verbs, paths, strict=False)
    ]
    return {"services": {"saga-orchestrator": {"allow": rules}}}


@pytest.mark.parametrize(
    "paths",
    [
        ("/sagas", "/sagas/hand_over"),
        ("/sagas/hand_over", "/sagas"),
        ("/Sagas", "/sagas/hand_over"),
        ("/commands/task.create", "/commands/task.*"),
        ("/commands/task.*", "/commands/task.create"),
        ("/commands/task.*", "/commands/*.create"),
        ("/sagas/*", "/sagas/first"),
        ("/sagas/first/steps", "/sagas/*"),
        ("/t*/first", "/tasks/second"),
        ("/**", "/sagas"),
    ],
)
def test_a_path_that_would_hide_another_is_refused(render: Render, paths: tuple[str, str]) -> None:
    first, second = map(re.escape, paths)
    with pytest.raises(Refused, match=rf"saga-orchestrator\.allow: {first} and {second} overlap for console"):
        render(allowing(*paths))


@pytest.mark.parametrize(
    "paths",
    [
        ("/commands/task.*", "/commands/member.*"),
        ("/commands/*.create", "/commands/*.delete"),
        ("/commands/a*c", "/commands/abd"),
        ("/sagas", "/sagas.old"),
        ("/sagas/*", "/sagas/first/steps"),
    ],
)
def test_paths_that_hide_nothing_are_taken(render: Render, paths: tuple[str, str]) -> None:
    assert of_kind(render(allowing(*paths)), "Configuration")


@pytest.mark.parametrize("path", ["/sagas/*/steps", "/sagas/**/steps"])
def test_a_wildcard_that_dapr_would_not_take_as_one_is_refused(render: Render, path: str) -> None:
    with pytest.raises(Refused, match=rf"{re.escape(path)}: only the last segment may be \* or \*\*"):
        render(allowing(path))


@pytest.mark.parametrize("scaled", [{"services": {}}, {"autoscaling": {"kind": "hpa"}}])
def test_replicas_that_would_share_one_connection_are_refused(render: Render, scaled: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"replicas of command would be the client"):
        render({**of_broker("mqtt"), **scaled})


def test_replicas_with_an_id_of_their_own_may_be_many(render: Render) -> None:
    own = {name: {"consumerID": {"value": f"{{podName}}-{name}"}} for name in TOPICS}

    manifests = render({"broker": "mqtt", "components": own})

    ids = {metadata(of_kind(manifests, "Component")[name])["consumerID"] for name in TOPICS}
    assert ids == {f"{{podName}}-{name}" for name in TOPICS}


LOGIN = {
    "kafka": {"value": "kafka.example:9093"},
    "kafka-mechanism": {"value": "SHA-256"},
    "kafka-disable-tls": {"value": "false"},
}
BUNDLED = {"kafka": {"value": ""}, "kafka-mechanism": {"value": "SHA-512"}}


def test_a_console_that_would_not_start_is_refused(render: Render) -> None:
    with pytest.raises(Refused, match="ANNALS_AUTH"):
        render({"services": {"console": {"enabled": True}}})
    for how in ({"env": {"ANNALS_AUTH": "oidc"}}, {"envFrom": ["sign-in"]}):
        assert "annals-console" in of_kind(
            render({"services": {"console": {"enabled": True, **how}}}), "Deployment"
        )


KEDA = {"autoscaling": {"kind": "keda"}}


@pytest.mark.parametrize(
    ("values", "address", "mechanism"),
    [
        ({"credentials": LOGIN}, "kafka.example:9093", "scram_sha256"),
        (
            {"credentials": BUNDLED, "kafka": {"bundled": True}},
            "annals-kafka-kafka-bootstrap.here.svc:9093",  # reachable from KEDA's namespace too
            "scram_sha512",
        ),
    ],
)
def test_keda_is_told_where_kafka_is(
    render: Render, values: dict[str, Any], address: str, mechanism: str
) -> None:
    manifests = render({**values, **KEDA})

    scaled = of_kind(manifests, "ScaledObject")
    of_sidecars = of_kind(manifests, "Secret")["annals-kafka"]["data"]["kafka"]
    assert base64.b64decode(of_sidecars).decode() == address
    for app in ("projector", "saga-orchestrator", "notification"):
        lag = scaled[f"annals-{app}"]["spec"]["triggers"][0]
        told = lag["metadata"]
        assert (told["bootstrapServers"], told["consumerGroup"]) == (address, app)
        assert (told["sasl"], told["tls"]) == (mechanism, "enable")
        login = of_kind(manifests, "TriggerAuthentication")[lag["authenticationRef"]["name"]]
        taken = {one["parameter"] for one in login["spec"]["secretTargetRef"]}
        # KEDA takes these only from a secret, and it would not see an address there.
        assert taken - {"ca"} == {"username", "password"}


@pytest.mark.parametrize("name", LOGIN)
def test_what_keda_cannot_read_in_a_secret_is_refused(render: Render, name: str) -> None:
    hidden = {"credentials": {**LOGIN, name: {"existingSecret": "kafka"}}, **KEDA}
    with pytest.raises(Refused, match=rf"KEDA cannot read credentials\.{name} in a secret"):
        render(hidden)

    by_cron = [{"type": "cron", "metadata": {"timezone": "UTC"}}]
    services = ("projector", "saga-orchestrator", "notification")
    own = {"autoscaling": {"kind": "keda", "triggers": dict.fromkeys(services, by_cron)}}
    scaled = of_kind(render({**hidden, **own}), "ScaledObject")
    assert {one["spec"]["triggers"][0]["type"] for one in scaled.values()} == {"cron", "cpu"}


@pytest.mark.parametrize(("app", "lanes"), [("command", DOMAIN_LANES), ("saga-orchestrator", SAGA_LANES)])
def test_an_upgrade_never_waits_for_a_lane(render: Render, app: str, lanes: range) -> None:
    def fixed(replicas: int) -> list[Manifest]:
        return render({"services": {app: {"replicas": replicas}}})

    most = len(lanes) - 1
    assert of_kind(fixed(most), "Deployment")[f"annals-{app}"]["spec"]["replicas"] == most
    with pytest.raises(Refused, match=rf"{app}: {most + 1} replicas; {most} at most"):
        fixed(most + 1)
    with pytest.raises(Refused, match=rf"{most + 1} replicas; {most} at most"):
        render({"autoscaling": {"kind": "hpa", "minReplicas": most + 1, "maxReplicas": most + 1}})


@pytest.mark.parametrize(
    ("scaling", "kind", "field"),
    [("hpa", "HorizontalPodAutoscaler", "maxReplicas"), ("keda", "ScaledObject", "maxReplicaCount")],
)
def test_no_more_are_scaled_than_there_are_lanes(render: Render, scaling: str, kind: str, field: str) -> None:
    scaled = of_kind(render({"autoscaling": {"kind": scaling, "maxReplicas": 60}}), kind)

    most = {name: one["spec"][field] for name, one in scaled.items()}
    assert (most["annals-command"], most["annals-saga-orchestrator"]) == (47, 15)
    assert (most["annals-projector"], most["annals-notification"]) == (60, 60)


@pytest.mark.parametrize("scaling", ["hpa", "keda"])
def test_an_autoscaler_that_no_cluster_would_take_is_refused(render: Render, scaling: str) -> None:
    with pytest.raises(Refused, match=r"autoscaling\.minReplicas: 12, and maxReplicas is 10"):
        render({"autoscaling": {"kind": scaling, "minReplicas": 12}})
    render({"autoscaling": {"kind": "none", "minReplicas": 12}})


def test_every_pod_of_the_chart_runs_where_the_values_say(render: Render) -> None:
    manifests = [*render(EVERYTHING), *render({**EVERYTHING, "postgresql": {"bundled": False}})]
    placed = {
        name: value for name, value in EVERYTHING["pod"].items() if name not in ("labels", "annotations")
    }

    pods = {
        name: one["spec"]["template"]["spec"]
        for kind in ("Deployment", "Job")
        for name, one in of_kind(manifests, kind).items()
    }
    assert {"annals-command", "annals-smoke-test", "annals-settings", "annals-zipkin"} <= pods.keys()
    for name, pod in pods.items():
        assert placed.items() <= pod.items(), name
        assert pod["imagePullSecrets"] == EVERYTHING["image"]["pullSecrets"], name


@pytest.mark.parametrize("name", ["minReplicas", "maxReplicas"])
def test_a_service_is_not_scaled_to_nothing(render: Render, name: str) -> None:
    with pytest.raises(Refused, match=rf"/autoscaling/{name}': minimum: got 0, want 1"):
        render({"autoscaling": {"kind": "hpa", "minReplicas": 1, name: 0}})
    render({"autoscaling": {"kind": "hpa", "minReplicas": 1, name: 1}})


def test_a_pod_that_would_wait_for_longer_than_it_is_given_is_refused(render: Render) -> None:
    with pytest.raises(Refused, match=r"preStopSeconds: 70 is more than pod\.terminationGracePeriodSeconds"):
        render({"pod": {"preStopSeconds": 70}})


def test_a_pod_that_waits_for_nothing_has_no_hook(render: Render) -> None:
    """Kubernetes before 1.33 refuses a sleep of 0 s."""
    for one in of_kind(render({"pod": {"preStopSeconds": 0}}), "Deployment").values():
        assert "lifecycle" not in one["spec"]["template"]["spec"]["containers"][0]


def test_a_smoke_test_that_would_never_end_is_refused(render: Render) -> None:
    with pytest.raises(Refused, match=r"its Job, never ends"):
        render({"sidecar": {"native": False}})


def test_a_package_holds_the_component_files_themselves(helm: Path, tmp_path: Path) -> None:
    subprocess.run([helm, "package", CHART, "--destination", tmp_path], check=True, capture_output=True)

    with tarfile.open(next(tmp_path.glob("annals-*.tgz"))) as package:
        packed = package.extractfile("annals/components/shared/resiliency.yaml")
        assert packed is not None
        assert packed.read() == (ROOT / "components" / "shared" / "resiliency.yaml").read_bytes()


def test_the_chart_has_no_lint(helm: Path, tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("{kafka: {bundled: true}, postgresql: {bundled: true}}")
    result = subprocess.run(
        [helm, "lint", "--strict", CHART, "--values", values], capture_output=True, text=True, check=False
    )

    assert result.returncode == 0, result.stdout + result.stderr


def test_kafkas_resources_are_of_the_version_that_its_operator_serves(render: Render) -> None:
    """Strimzi 1.0 serves only v1."""
    strimzi = [one for one in render(EVERYTHING) if one["apiVersion"].startswith("kafka.strimzi.io/")]

    assert {one["kind"] for one in strimzi} == {"Kafka", "KafkaNodePool", "KafkaTopic", "KafkaUser"}
    assert {one["apiVersion"] for one in strimzi} == {"kafka.strimzi.io/v1"}


def test_a_new_release_of_an_operator_changes_no_cluster() -> None:
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", "")
    charts = re.findall(r"^\t\$\(HELM\) upgrade .*--repo .*$", makefile, re.MULTILINE)

    assert len(charts) == 3
    assert all(re.search(r"--version \$\([A-Z_]+_VERSION\)", line) for line in charts)


def test_the_values_of_a_small_cluster_render(render: Render) -> None:
    values = yaml.safe_load((ROOT / "k8s" / "values.yaml").read_text())

    assert {"Kafka", "Cluster"} <= {one["kind"] for one in render(values, bare=True)}
