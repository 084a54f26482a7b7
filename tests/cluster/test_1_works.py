"""Installed: a command, a query, a saga, a notification; and what pods look like."""

from __future__ import annotations

import json

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
