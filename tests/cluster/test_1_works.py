"""What must work after an installation: commands, queries, sagas, notices, traces, restricted pods."""

from __future__ import annotations

import json
import uuid

import pytest

from .conftest import SERVICES, Cluster
from .waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def test_helm_test_sends_a_command_and_reads_it_back(cluster: Cluster) -> None:
    assert "Phase:          Succeeded" in cluster.helm("test", "annals", "--timeout", "5m")


def test_a_command_is_visible_to_a_query_at_its_position(cluster: Cluster, name: str) -> None:
    status, done = cluster.call(
        "toolbox", "POST", "invoke/command/method/commands/task.create", {"id": name, "title": "Seen"}
    )
    assert (status, done["version"]) == (201, 1)

    path = f"invoke/projector/method/queries/tasks/{name}?position={done['position']}"
    status, task = cluster.call("toolbox", "GET", path)

    assert (status, task["title"]) == (200, "Seen")


def test_a_saga_crosses_the_services_and_its_notice_arrives(cluster: Cluster, name: str) -> None:
    commands = "invoke/command/method/commands"
    cluster.call("toolbox", "POST", f"{commands}/member.register", {"id": name, "name": "M", "capacity": 1})
    cluster.call("toolbox", "POST", f"{commands}/task.create", {"id": name, "title": "Hand over"})

    status, _ = cluster.call(
        "toolbox",
        "POST",
        f"invoke/saga-orchestrator/method/sagas/task-handover?id={name}",
        {"task_id": name, "assignee": name, "deadline": "PT1H"},
    )
    assert status == 202

    def asked() -> bool:
        _, inbox = cluster.call("toolbox", "GET", f"invoke/notification/method/inbox/{name}")
        return bool(inbox["items"])

    eventually(asked, "the assignee is asked")
    raised, _ = cluster.call(
        "toolbox", "POST", f"invoke/saga-orchestrator/method/sagas/{name}/events/accept", x_user_id=name
    )
    assert raised == 202

    def completed() -> bool:
        _, saga = cluster.call("toolbox", "GET", f"invoke/saga-orchestrator/method/sagas/{name}")
        return bool(saga["status"] == "completed")

    eventually(completed, "the saga completes")


def test_the_command_line_works_in_the_toolbox(cluster: Cluster) -> None:
    where = ("exec", "deploy/annals-toolbox", "--container", "toolbox", "--", "python3", "-m", "annals_cli")
    lanes = json.loads(cluster.kubectl(*where, "--json", "lanes"))

    assert lanes


def test_a_live_setting_reaches_the_pods(cluster: Cluster) -> None:
    where = ("exec", "deploy/annals-toolbox", "--container", "toolbox", "--")
    grace = (*where, "python3", "-m", "annals_cli", "--user", "grace", "config")
    because = ("--reason", "the database moves")

    def refused() -> bool:
        path = "invoke/command/method/commands/task.create"
        return cluster.call("toolbox", "POST", path, {"title": "Not now"})[0] == 503

    assert not refused()
    cluster.kubectl(*grace, "set", "command.read_only", "true", *because)
    try:
        eventually(refused, "commands are refused")
    finally:
        cluster.kubectl(*grace, "unset", "command.read_only", *because)
    eventually(lambda: not refused(), "commands are taken again")


def test_a_trace_goes_from_pod_to_pod(cluster: Cluster, name: str) -> None:
    trace = uuid.uuid4().hex
    status, _ = cluster.call(
        "toolbox",
        "POST",
        "invoke/command/method/commands/task.create",
        {"id": name, "title": "Traced"},
        traceparent=f"00-{trace}-{trace[:16]}-01",
    )
    assert status == 201
    seen: set[str] = set()

    def complete() -> bool:
        url = f"http://annals-zipkin.{cluster.namespace}:9411/api/v2/trace/{trace}"
        status, spans = cluster.call("toolbox", "GET", url)
        if status == 200:
            seen.update(span["localEndpoint"]["serviceName"] for span in spans)
        return {"toolbox", "command", "projector"} <= seen

    eventually(complete, "each service that the event comes to is in the trace")


def test_the_console_serves_its_page_and_reaches_the_services(cluster: Cluster, name: str) -> None:
    edge = f"http://annals-console.{cluster.namespace}"
    status, page = cluster.call("toolbox", "GET", f"{edge}/", host="localhost")
    assert (status, "<script" in page) == (200, True)

    create = f"{edge}/api/command/commands/task.create"
    status, done = cluster.call("toolbox", "POST", create, {"id": name, "title": "Edge"}, host="localhost")
    assert status == 201
    query = f"{edge}/api/projector/queries/tasks/{name}?position={done['position']}"
    assert cluster.call("toolbox", "GET", query, host="localhost")[1]["title"] == "Edge"


@pytest.mark.parametrize("service", SERVICES)
def test_a_pod_is_restricted_and_its_app_holds_no_token_of_the_cluster(
    cluster: Cluster, service: str
) -> None:
    code = """
import json, os
try:
    open("/opt/annals/x", "w")
    written = True
except OSError:
    written = False
token = os.path.exists("/var/run/secrets/kubernetes.io/serviceaccount/token")
print(json.dumps({"uid": os.getuid(), "written": written, "token": token}))
"""
    assert cluster.python(service, code) == {"uid": 65532, "written": False, "token": False}


def test_an_upgrade_that_changes_nothing_keeps_keys_and_tokens(cluster: Cluster) -> None:
    def secrets() -> dict[str, object]:
        found = json.loads(cluster.kubectl("get", "secrets", "--output", "json"))["items"]
        return {one["metadata"]["name"]: one["data"] for one in found if one["type"] == "Opaque"}

    before = secrets()
    cluster.install()

    assert secrets() == before
    assert {"audit-signing-key", "personal-data-keys"} <= before.keys()
