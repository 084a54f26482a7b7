"""What operators rely on: upgrades, disruptions, alerts, the dashboard, images."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase

from annals.sagas.orchestrator import Orchestrator
from annals.telemetry import metrics
from annals_console.health import quantile
from annals_notification.reminders import Reminders
from annals_saga_orchestrator.sagas import CATALOG
from suite.paths import ROOT

from .conftest import CHART, EVERYTHING, Manifest, Refused, Render, metadata, of_kind

SERVICES = ("command", "projector", "saga-orchestrator", "notification", "console")


def exported() -> set[str]:
    """Return the names of the suite's metrics as Prometheus has them."""
    collectors = [one for one in vars(metrics).values() if isinstance(one, MetricWrapperBase)]
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for one in collectors
        for family in one.describe()
    }
    return names | {f"{name}_{part}" for name in names for part in ("bucket", "sum", "count")}


def alerts() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())["groups"]
    rules: list[dict[str, Any]] = group["rules"]
    return rules


def expressions() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


@pytest.mark.parametrize(("name", "expression"), list(expressions()))
def test_an_expression_is_promql_over_metrics_that_exist(name: str, expression: str) -> None:
    promql_parser.parse(expression)

    assert set(re.findall(r"\bannals_\w+", expression)) <= exported()


def test_there_is_an_alert_for_each_thing_that_must_not_go_unseen() -> None:
    assert {rule["alert"] for rule in alerts()} == {
        "AnnalsServiceDown",
        "AnnalsBacklogOld",
        "AnnalsBacklogLarge",
        "AnnalsEventPassedOver",
        "AnnalsProjectionBehind",
        "AnnalsProjectionStopped",
        "AnnalsProjectionSlow",
        "AnnalsParked",
        "AnnalsSagaFailed",
        "AnnalsRemindersLate",
        "AnnalsCommandsUnavailable",
    }
    assert all(rule["labels"]["severity"] and rule["annotations"]["summary"] for rule in alerts())


Labels = dict[str, str]


def targets(manifests: list[Manifest]) -> list[Labels]:
    """Return the labels of each scrape target that the Prometheus operator makes of the pods."""
    (monitor,) = of_kind(manifests, "PodMonitor").values()
    found = []
    for deployment in of_kind(manifests, "Deployment").values():
        pod = deployment["spec"]["template"]
        labels = pod["metadata"]["labels"]
        if not monitor["spec"]["selector"]["matchLabels"].items() <= labels.items():
            continue
        app = labels["app.kubernetes.io/name"]
        ports = {one["name"] for each in pod["spec"]["containers"] for one in each.get("ports", [])}
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            drops = [one["regex"] for one in endpoint["relabelings"] if one.get("action") == "drop"]
            if endpoint["port"] in ports | {"dapr-metrics"} and app not in drops:
                at = {"job": labels[monitor["spec"]["jobLabel"]], "endpoint": endpoint["port"]}
                found.append({"namespace": monitor["metadata"]["namespace"], "app": app, **at})
    return found


def selected(expression: Any, labels: Labels) -> bool:
    """Return whether the expression's one selector matches a series with these labels."""
    while not isinstance(expression, promql_parser.VectorSelector):
        match expression:
            case promql_parser.BinaryExpr():
                expression = expression.lhs
            case promql_parser.AggregateExpr():
                expression = expression.expr
            case promql_parser.Call():
                (expression,) = expression.args
    matchers = expression.matchers.matchers
    assert all(one.op in (promql_parser.MatchOp.Equal, promql_parser.MatchOp.NotEqual) for one in matchers)
    return all(
        (labels.get(one.name, "") == one.value) == (one.op == promql_parser.MatchOp.Equal) for one in matchers
    )


@pytest.mark.parametrize("release", ["annals", "tasks"])
def test_a_service_that_is_down_is_one_whose_app_is(render: Render, release: str) -> None:
    manifests = render(EVERYTHING, release=release)
    (rule,) = (rule for rule in alerts() if rule["alert"] == "AnnalsServiceDown")
    expression = promql_parser.parse(rule["expr"])

    counted = [labels for labels in targets(manifests) if selected(expression, labels)]

    assert sorted(labels["app"] for labels in counted) == sorted(SERVICES)
    assert {labels["endpoint"] for labels in counted} == {"http", "metrics"}
    assert expression.lhs.modifier.labels == ["namespace", "app"]


def test_there_is_an_alert_for_each_service_that_has_no_pod(render: Render) -> None:
    manifests = render(EVERYTHING, release="tasks")
    (rules,) = (one["spec"]["groups"] for one in of_kind(manifests, "PrometheusRule").values())
    expressions = [promql_parser.parse(rule["expr"]) for rule in rules[1]["rules"]]

    for expression in expressions:
        assert expression.func.name == "absent"
    found = [
        [labels["app"] for labels in targets(manifests) if selected(expression, labels)]
        for expression in expressions
    ]
    assert sorted(found) == [[service] for service in sorted(SERVICES)]


def test_no_alert_asks_for_targets_that_the_chart_does_not_make(render: Render) -> None:
    manifests = render({"monitoring": {"podMonitors": False, "alerts": True}})
    (rules,) = of_kind(manifests, "PrometheusRule").values()
    assert [group["name"] for group in rules["spec"]["groups"]] == ["annals"]


def test_what_is_counted_is_there_before_it_first_happens() -> None:
    """An increase needs two values; a series that begins with its first failure has only one."""
    unused: Any = None
    metrics.SAGA_TRANSITIONS.clear()
    metrics.REMINDERS.clear()

    Orchestrator(CATALOG, unused, unused, unused)
    Reminders(unused, unused, unused, unused, (), unused)

    for saga in CATALOG.types:
        labels = {"saga": saga, "event": "saga.failed"}
        assert REGISTRY.get_sample_value("annals_saga_transitions_total", labels) == 0
    assert REGISTRY.get_sample_value("annals_reminders_fired_total", {"late": "true"}) == 0


@pytest.mark.parametrize("seconds", [7, 20, 45, 200, 1_000, 3_000])
def test_an_alert_says_how_late_the_read_models_are(seconds: float) -> None:
    """A quantile is at most the largest finite bound, however late they are."""

    def counts() -> dict[float, float]:
        (histogram,) = metrics.PROJECTION_LAG_SECONDS.collect()
        return {float(one.labels["le"]): one.value for one in histogram.samples if "le" in one.labels}

    before = counts()
    metrics.PROJECTION_LAG_SECONDS.observe(seconds)
    new = {bound: count - before[bound] for bound, count in counts().items()}

    found = quantile(new, 0.99)
    assert found is not None
    assert seconds / 2 < found < seconds * 2


def test_the_rule_and_the_dashboard_are_the_files(render: Render) -> None:
    manifests = render(EVERYTHING)

    assert of_kind(manifests, "PrometheusRule")["annals"]["spec"]["groups"][0]["rules"] == alerts()
    dashboard = of_kind(manifests, "ConfigMap")["annals-dashboard"]["data"]["annals.json"]
    assert json.loads(dashboard) == json.loads((CHART / "files" / "dashboard.json").read_text())


def test_the_dashboard_finds_its_namespace_before_the_first_command() -> None:
    """A metric with labels has no series until something happens."""
    (variable,) = (
        one
        for one in json.loads((CHART / "files" / "dashboard.json").read_text())["templating"]["list"]
        if one["name"] == "namespace"
    )
    (name,) = re.findall(r"label_values\((\w+), namespace\)", variable["query"])
    assert REGISTRY.get_sample_value(name) is not None


def test_the_edges_metrics_are_scraped_from_a_port_that_is_not_public(render: Render) -> None:
    manifests = render(EVERYTHING)

    deployments = of_kind(manifests, "Deployment")
    (container,) = deployments["annals-console"]["spec"]["template"]["spec"]["containers"]
    opened = {one["name"]: one["containerPort"] for one in container["ports"]}
    told = {one["name"]: one.get("value") for one in container["env"]}
    assert told["ANNALS_METRICS_PORT"] == str(opened["metrics"])
    for name in ("Service", "Ingress"):
        assert "metrics" not in json.dumps(of_kind(manifests, name)["annals-console"]["spec"])
    (monitor,) = of_kind(manifests, "PodMonitor").values()
    endpoints = {one["port"]: one for one in monitor["spec"]["podMetricsEndpoints"]}
    assert endpoints["metrics"]["path"] == "/metrics"
    dropped = [one for one in endpoints["http"]["relabelings"] if one.get("action") == "drop"]
    assert [one["regex"] for one in dropped] == ["console"]


_DRAIN_SECONDS = 15
_OUTAGE_SECONDS = 10 + 10
"""How much longer a drain takes without the store and then without the broker."""
_SECONDS_TO_BE_READY = 10
"""Roughly the shortest time in which a new pod becomes ready."""
_ITS_OWN_CONNECTIONS = 20
"""Connections that PostgreSQL reserves for superusers, and those of its operator."""


def seconds_to_end(pod: Manifest) -> int:
    """Return the seconds that a pod may hold its connections once it is told to end, without an outage."""
    sidecar = int(pod["metadata"]["annotations"]["dapr.io/graceful-shutdown-seconds"])
    stop: int = pod["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    return stop + _DRAIN_SECONDS + sidecar


def test_a_pod_is_given_the_time_that_its_end_takes(render: Render) -> None:
    for name, one in of_kind(render(), "Deployment").items():
        pod = one["spec"]["template"]
        assert pod["spec"]["terminationGracePeriodSeconds"] > seconds_to_end(pod) + _OUTAGE_SECONDS, name
        assert one["spec"]["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}


def test_a_sidecar_is_held_to_what_is_given_and_to_no_more(render: Render) -> None:
    def held(resources: Any) -> dict[str, str]:
        manifests = render({"sidecar": {"resources": resources}})
        pod = of_kind(manifests, "Deployment")["annals-command"]["spec"]["template"]
        pattern = re.compile(r"dapr\.io/sidecar-(\w+-(?:request|limit))")
        annotations = pod["metadata"]["annotations"].items()
        return {found[1]: value for name, value in annotations if (found := pattern.fullmatch(name))}

    requests = {"cpu-request": "100m", "memory-request": "128Mi"}
    assert held({}) == requests | {"cpu-limit": "1", "memory-limit": "512Mi"}
    assert held({"limits": {"cpu": None}}) == requests | {"memory-limit": "512Mi"}
    assert held({"limits": None}) == requests
    assert held(None) == {}


def test_the_toolbox_ends_when_it_is_told_to(render: Render) -> None:
    """The toolbox is its container's first process, which only signals that it handles can end."""
    (container,) = of_kind(render(EVERYTHING), "Deployment")["annals-toolbox"]["spec"]["template"]["spec"][
        "containers"
    ]
    *python, script = container["command"]
    told = "import os, signal; signal.pause = lambda: os.kill(os.getpid(), signal.SIGTERM)"

    assert subprocess.run([*python, f"{told}\n{script}"], check=False, timeout=30).returncode == 0


def test_the_sidecar_ends_after_its_app(render: Render) -> None:
    native = of_kind(render(), "Deployment")["annals-command"]["spec"]["template"]["metadata"]["annotations"]
    other = of_kind(render({"sidecar": {"native": False}, "smokeTest": {"enabled": False}}), "Deployment")[
        "annals-command"
    ]["spec"]["template"]

    assert native["dapr.io/enable-native-sidecar"] == "true"
    assert "dapr.io/block-shutdown-duration" not in native
    assert other["metadata"]["annotations"]["dapr.io/block-shutdown-duration"] == "30s"


def test_one_pod_of_a_service_may_be_away_at_a_time(render: Render) -> None:
    budgets = of_kind(render(), "PodDisruptionBudget")

    assert {one["spec"]["maxUnavailable"] for one in budgets.values()} == {1}
    assert len(budgets) == 4


def test_so_is_it_where_an_autoscaler_has_made_more_than_one(render: Render) -> None:
    one = {"services": {"notification": {"replicas": 1}}}

    assert "annals-notification" not in of_kind(render(one), "PodDisruptionBudget")
    scaled = render({**one, "autoscaling": {"kind": "hpa"}})
    assert "annals-notification" in of_kind(scaled, "PodDisruptionBudget")


def test_a_restart_of_all_services_restarts_nothing_else(render: Render) -> None:
    """The bundled Zipkin keeps its traces in memory."""
    (command,) = re.findall(r"kubectl rollout restart [^`]+", (ROOT / "components" / "README.md").read_text())
    instance, name = command.split()[-1].split(",")

    labels = {
        each: one["metadata"]["labels"] for each, one in of_kind(render(EVERYTHING), "Deployment").items()
    }
    assert instance == "app.kubernetes.io/instance=annals"
    assert {each for each in labels if name in labels[each]} == labels.keys() - {"annals-zipkin"}


def test_scaling_down_is_one_at_a_time(render: Render) -> None:
    by_cpu = of_kind(render({"autoscaling": {"kind": "hpa"}}), "HorizontalPodAutoscaler")
    by_lag = of_kind(render({"autoscaling": {"kind": "keda"}}), "ScaledObject")

    assert by_cpu.keys() == by_lag.keys()
    for name, one in by_cpu.items():
        down = one["spec"]["behavior"]["scaleDown"]
        assert down["policies"] == [{"type": "Pods", "value": 1, "periodSeconds": 60}]
        configuration = by_lag[name]["spec"]["advanced"]["horizontalPodAutoscalerConfig"]
        assert configuration == {"behavior": one["spec"]["behavior"]}


def test_who_takes_no_events_is_not_scaled_by_how_many_wait(render: Render) -> None:
    own = {"enabled": True, "port": 8010, "replicas": 2, "publishes": [], "allow": []}
    scaled = of_kind(render({"autoscaling": {"kind": "keda"}, "services": {"billing": own}}), "ScaledObject")

    kinds = {name: {one["type"] for one in scaled[name]["spec"]["triggers"]} for name in scaled}
    assert kinds["annals-billing"] == {"cpu"}
    assert kinds["annals-projector"] == kinds["annals-notification"] == {"kafka", "cpu"}


def pods_in_an_upgrade(deployment: Manifest) -> int:
    """Return how many pods there may be at once.

    Pods that are ending do not count as surge, but still hold their connections.
    """
    pod = deployment["spec"]["template"]
    replicas: int = deployment["spec"]["replicas"]
    surge: int = deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]
    ending = -(-seconds_to_end(pod) // _SECONDS_TO_BE_READY)
    return min(2 * replicas, replicas + surge + ending)


def test_a_bundled_database_has_connections_for_all_replicas_and_an_upgrade(render: Render) -> None:
    manifests = render({"postgresql": {"bundled": True}})
    (database,) = of_kind(manifests, "Cluster").values()
    wanted = _ITS_OWN_CONNECTIONS
    for component in of_kind(manifests, "Component").values():
        if "postgresql" in component["spec"]["type"]:
            most = int(metadata(component)["maxConns"])
            apps = [of_kind(manifests, "Deployment")[f"annals-{app}"] for app in component["scopes"]]
            wanted += sum(most * pods_in_an_upgrade(app) for app in apps)

    assert wanted <= int(database["spec"]["postgresql"]["parameters"]["max_connections"])


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({"autoscaling": {"kind": "hpa"}}, 1420),
        ({"autoscaling": {"kind": "keda", "minReplicas": 1, "maxReplicas": 4}}, 820),
        ({"services": {"command": {"replicas": 4}}}, 652),
        ({"components": {"eventstore": {"maxConns": {"value": "11"}}}}, 644),
        ({"services": {"notification": {"enabled": False}}}, 476),
    ],
)
def test_more_replicas_than_a_bundled_database_has_connections_for_are_refused(
    render: Render, values: dict[str, Any], wanted: int
) -> None:
    def bundled(connections: int) -> list[Manifest]:
        return render({**values, "postgresql": {"bundled": True, "maxConnections": connections}})

    with pytest.raises(Refused, match=rf"postgresql\.maxConnections: {wanted - 1}, .* need {wanted} "):
        bundled(wanted - 1)
    bundled(wanted)


def test_a_topic_waits_for_no_operator_that_goes_with_it(render: Render) -> None:
    """Helm deletes Kafka, and with it the topic operator, before it deletes the topics."""
    (kafka,) = of_kind(render({"kafka": {"bundled": True}}), "Kafka").values()

    operator = kafka["spec"]["entityOperator"]["template"]["topicOperatorContainer"]
    assert operator["env"] == [{"name": "STRIMZI_USE_FINALIZERS", "value": "false"}]


def test_a_bundled_database_that_is_there_ends_transactions_that_nobody_goes_on_with(render: Render) -> None:
    """The operator applies parameters at any time, but settings.sql only to a new database."""
    (database,) = of_kind(render({"postgresql": {"bundled": True}}), "Cluster").values()
    name = "idle_in_transaction_session_timeout"

    for_others = re.findall(rf"SET {name} = ''(\w+)''", (ROOT / "components" / "settings.sql").read_text())
    assert [database["spec"]["postgresql"]["parameters"].get(name)] == for_others


def test_images_are_installed_from_pins_of_the_one_lock() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^\S+==[^ ;\\]+", (ROOT / name).read_text(), re.MULTILINE))

    assert pins("services/requirements.lock") < pins("requirements.lock")


def test_the_settings_table_is_made_before_anything_else(render: Render) -> None:
    manifests = render({"credentials": {"postgres": {"existingSecret": "database", "key": "uri"}}})

    job = of_kind(manifests, "Job")["annals-settings"]
    assert job["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert container["env"][0]["valueFrom"]["secretKeyRef"] == {"name": "database", "key": "uri"}
    assert "annals-settings" not in of_kind(manifests, "Secret")
    sql = (ROOT / "components" / "settings.sql").read_text()
    assert of_kind(manifests, "ConfigMap")["annals-settings"]["data"]["settings.sql"] == sql


def test_an_address_that_is_a_value_is_there_before_the_release_is(render: Render) -> None:
    manifests = render()

    secret = of_kind(manifests, "Secret")["annals-settings"]
    weight = "helm.sh/hook-weight"
    assert int(secret["metadata"]["annotations"][weight]) < 0
    assert weight not in of_kind(manifests, "Job")["annals-settings"]["metadata"]["annotations"]
    assert secret["data"] == of_kind(manifests, "Secret")["annals-postgres"]["data"]


def test_a_bundled_postgresql_makes_the_settings_table_itself(render: Render) -> None:
    manifests = render({"postgresql": {"bundled": True}})

    assert "annals-settings" not in of_kind(manifests, "Job")
    made = of_kind(manifests, "Cluster")["annals-postgres"]["spec"]["bootstrap"]["initdb"]
    (reference,) = made["postInitApplicationSQLRefs"]["configMapRefs"]
    sql = of_kind(manifests, "ConfigMap")[reference["name"]]["data"][reference["key"]]
    assert "SET ROLE annals;" in sql
    assert "annotations" not in of_kind(manifests, "ConfigMap")[reference["name"]]["metadata"]
