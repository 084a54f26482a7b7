"""What must be denied: the wrong app, method, topic, tenant, token, secret or pod."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from .conftest import REPLICATED, Cluster
from .waiting import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

_NETWORK_SECONDS = 20.0
"""Seconds within which a network that enforces policies enforces a new one."""

_CREATE = ("POST", "invoke/command/method/commands/task.create", {"title": "Not mine"})


def toolbox(cluster: Cluster) -> dict[str, Any]:
    """Return the pod template of the toolbox."""
    made = json.loads(cluster.kubectl("get", "deployment", "annals-toolbox", "--output", "json"))
    template: dict[str, Any] = made["spec"]["template"]
    return template


@contextmanager
def toolbox_as(
    cluster: Cluster, name: str, labels: dict[str, str], annotations: dict[str, str]
) -> Iterator[str]:
    """Deploy the toolbox again under another name, labels and annotations, and yield that name."""
    template = toolbox(cluster)
    labels = {"app": name} | labels
    template["metadata"] |= {"labels": labels, "annotations": annotations}
    template["spec"]["containers"][0]["name"] = name
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": f"annals-{name}"},
        "spec": {"selector": {"matchLabels": {"app": name}}, "template": template},
    }
    cluster.kubectl("create", "--filename", "-", stdin=json.dumps(deployment))
    try:
        cluster.rolled_out(name)
        yield name
    finally:
        cluster.kubectl("delete", "deployment", f"annals-{name}", "--wait")


@pytest.fixture(scope="module")
def rogue(cluster: Cluster) -> Iterator[str]:
    """An app with a Dapr identity that no access policy names, on a network that lets it in."""
    annotations = toolbox(cluster)["metadata"]["annotations"] | {"dapr.io/app-id": "rogue"}
    del annotations["dapr.io/config"]
    suite = {"app.kubernetes.io/part-of": "annals", "app.kubernetes.io/instance": "annals"}
    with toolbox_as(cluster, "rogue", suite, annotations) as name:
        yield name


@pytest.fixture(scope="module")
def outsider(cluster: Cluster) -> Iterator[str]:
    """A pod that does not belong to the suite."""
    with toolbox_as(cluster, "outsider", {}, {}) as name:
        yield name


_REACH = """
import json, socket, sys
try:
    socket.create_connection((sys.argv[1], int(sys.argv[2])), 5).close()
    print(json.dumps(True))
except OSError:
    print(json.dumps(False))
"""


def address(cluster: Cluster, selector: str) -> str:
    """Return the IP address of one pod."""
    output = "--output=jsonpath={.items[0].status.podIP}"
    return cluster.kubectl("get", "pods", "--selector", selector, output)


@pytest.fixture(scope="module")
def enforced(cluster: Cluster, outsider: str) -> bool:
    """Return whether the cluster's network enforces policies at all, tried with one of the test's own."""
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "nothing-out"},
        "spec": {"podSelector": {"matchLabels": {"app": outsider}}, "policyTypes": ["Egress"]},
    }
    zipkin = address(cluster, "app.kubernetes.io/name=zipkin")

    def reached() -> bool:
        return bool(cluster.python(outsider, _REACH, zipkin, "9411"))

    assert reached()
    cluster.kubectl("create", "--filename", "-", stdin=json.dumps(policy))
    try:
        end = time.monotonic() + _NETWORK_SECONDS
        while not (heeded := not reached()) and time.monotonic() < end:
            time.sleep(1)
    finally:
        cluster.kubectl("delete", "networkpolicy", "nothing-out")
    eventually(reached, "the policy is gone")
    return heeded


@pytest.mark.parametrize(
    ("app", "method", "path"),
    [
        ("projector", "POST", "invoke/command/method/commands/task.create"),
        ("projector", "GET", "invoke/notification/method/inbox/ada"),
        ("command", "GET", "invoke/projector/method/queries/tasks"),
        ("command", "POST", "invoke/saga-orchestrator/method/sagas/task-handover"),
        ("notification", "GET", "invoke/projector/method/queries/tasks"),
        ("notification", "POST", "invoke/saga-orchestrator/method/sagas/task-handover"),
    ],
)
def test_an_app_that_is_not_named_is_denied(cluster: Cluster, app: str, method: str, path: str) -> None:
    status, said = cluster.call(app, method, path, {} if method == "POST" else None)

    assert (status, said["errorCode"]) == (403, "ERR_DIRECT_INVOKE")


@pytest.mark.parametrize(
    ("app", "method", "path"),
    [
        ("saga-orchestrator", "POST", "invoke/command/method/commands/task.create"),
        ("saga-orchestrator", "POST", "invoke/command/method/commands/subject.erase"),
        ("saga-orchestrator", "POST", "invoke/command/method/store/import"),
        ("saga-orchestrator", "GET", "invoke/projector/method/queries/audit"),
        ("saga-orchestrator", "POST", "invoke/projector/method/queries/tasks"),
        ("notification", "POST", "invoke/command/method/commands/subject.erase"),
        ("notification", "POST", "invoke/command/method/commands/../store/import"),
        ("notification", "POST", "invoke/command/method/commands%2Fsubject.erase"),
        ("console", "POST", "invoke/command/method/commands/task.revert_assignment"),
        ("console", "POST", "invoke/command/method/store/import"),
        ("console", "POST", "invoke/projector/method/queries/tasks"),
    ],
)
def test_a_method_that_is_not_named_is_denied(cluster: Cluster, app: str, method: str, path: str) -> None:
    status, said = cluster.call(app, method, path, {} if method == "POST" else None)

    assert (status, said["errorCode"]) == (403, "ERR_DIRECT_INVOKE")


def test_a_method_that_is_named_is_not(cluster: Cluster) -> None:
    status, said = cluster.call(
        "saga-orchestrator", "POST", "invoke/command/method/commands/member.reserve", {"id": "nobody"}
    )

    assert status != 403
    assert said["type"].startswith("urn:annals:problem:")


_PUBLISH = """
import json, os, sys, grpc
from dapr.proto import api_service_v1, api_v1
stub = api_service_v1.DaprStub(grpc.insecure_channel(f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}"))
request = api_v1.PublishEventRequest(pubsub_name=sys.argv[1], topic=sys.argv[2], data=b"{}")
try:
    stub.PublishEvent(request, metadata=(("dapr-api-token", os.environ["DAPR_API_TOKEN"]),))
    print(json.dumps("published"))
except grpc.RpcError as error:
    print(json.dumps(f"{error.code().name}: {error.details()}"))
"""


@pytest.mark.parametrize(
    ("app", "component", "topic", "why"),
    [
        ("notification", "domain-events", "domain-events", "not allowed"),
        ("saga-orchestrator", "domain-events", "domain-events", "not allowed"),
        ("projector", "saga-events", "saga-events", "not allowed"),
        ("command", "domain-events", "saga-events", "not allowed"),
        ("command", "domain-events", "made-up", "not allowed"),
        ("command", "saga-events", "saga-events", "not found"),
        ("projector", "integration-events", "integration-events", "not found"),
    ],
)
def test_a_topic_that_is_not_its_own_is_denied(
    cluster: Cluster, app: str, component: str, topic: str, why: str
) -> None:
    said = cluster.python(app, _PUBLISH, component, topic)

    assert why in said


def test_a_tenant_does_not_see_the_tasks_of_another(cluster: Cluster, name: str) -> None:
    path = "invoke/command/method/commands/task.create"
    _, done = cluster.call("toolbox", "POST", path, {"id": name, "title": "Ours"}, x_tenant_id="ours")
    query = f"invoke/projector/method/queries/tasks/{name}?position={done['position']}"

    assert cluster.call("toolbox", "GET", query, x_tenant_id="ours")[0] == 200
    assert cluster.call("toolbox", "GET", query, x_tenant_id="theirs")[0] == 404
    assert cluster.call("toolbox", "GET", query)[0] == 404


@pytest.mark.parametrize("token", ["", "wrong"])
def test_an_app_answers_nobody_without_the_token_of_its_sidecar(
    cluster: Cluster, enforced: bool, token: str
) -> None:
    for service in REPLICATED:
        url = f"http://annals-{service}.{cluster.namespace}/dead-letters"
        status, _ = cluster.call("toolbox", "GET", url, dapr_api_token=token)
        assert status == (0 if enforced else 401)


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_sidecar_answers_nobody_without_the_token_of_its_app(cluster: Cluster, token: str) -> None:
    method, path, body = _CREATE

    assert cluster.call("toolbox", method, path, body, dapr_api_token=token)[0] == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "shutdown"), ("GET", "state/eventstore/x"), ("GET", "secrets/shared-keys/personal-data-keys")],
)
def test_an_api_that_the_suite_does_not_use_is_off(cluster: Cluster, method: str, path: str) -> None:
    assert cluster.call("command", method, path, {} if method == "POST" else None)[0] in (403, 404)


_SECRET = """
import json, os, sys, grpc
from dapr.proto import api_service_v1, api_v1
stub = api_service_v1.DaprStub(grpc.insecure_channel(f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}"))
request = api_v1.GetSecretRequest(store_name=sys.argv[1], key=sys.argv[2])
try:
    answer = stub.GetSecret(request, metadata=(("dapr-api-token", os.environ["DAPR_API_TOKEN"]),))
    print(json.dumps(sorted(answer.data)))
except grpc.RpcError as error:
    print(json.dumps(error.code().name))
"""


@pytest.mark.parametrize(
    ("app", "store", "secret", "said"),
    [
        ("command", "signing-keys", "audit-signing-key", ["audit-signing-key"]),
        ("projector", "shared-keys", "audit-public-keys", ["audit-public-keys"]),
        ("projector", "shared-keys", "audit-signing-key", "PERMISSION_DENIED"),
        ("command", "secretstore", "annals-postgres", "PERMISSION_DENIED"),
        ("command", "shared-keys", "annals-postgres", "PERMISSION_DENIED"),
    ],
)
def test_an_app_reads_its_own_keys_and_no_credentials(
    cluster: Cluster, app: str, store: str, secret: str, said: Any
) -> None:
    assert cluster.python(app, _SECRET, store, secret) == said


@pytest.mark.parametrize(("app", "store"), [("projector", "signing-keys"), ("notification", "shared-keys")])
def test_an_app_does_not_have_the_key_store_of_another(cluster: Cluster, app: str, store: str) -> None:
    assert cluster.python(app, _SECRET, store, "audit-signing-key") in (
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
    )


@pytest.mark.parametrize(
    ("app", "secret", "may"),
    [
        ("command", "audit-signing-key", "yes"),
        ("projector", "audit-signing-key", "no"),
        ("notification", "personal-data-keys", "no"),
        ("command", "annals-projector-app-token", "no"),
        ("toolbox", "audit-public-keys", "no"),
    ],
)
def test_the_cluster_itself_gives_an_account_only_its_secrets(
    cluster: Cluster, app: str, secret: str, may: str
) -> None:
    account = f"system:serviceaccount:{cluster.namespace}:annals-{app}"
    said = cluster.kubectl("auth", "can-i", "get", f"secret/{secret}", "--as", account, check=False)

    assert said.split("\n")[0] == may
    assert cluster.kubectl("auth", "can-i", "list", "secrets", "--as", account, check=False).startswith("no")


def test_nobody_speaks_to_a_sidecar_without_a_certificate(cluster: Cluster) -> None:
    code = """
import json, socket, ssl, sys
context = ssl.create_default_context()
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
try:
    with socket.create_connection((sys.argv[1], 50002), 10) as plain, context.wrap_socket(plain) as secured:
        secured.sendall(b"PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        answer = secured.recv(64)
    print(json.dumps("answered" if answer else "closed"))
except ssl.SSLError as error:
    print(json.dumps(error.reason))
except OSError as error:
    print(json.dumps(type(error).__name__))
"""
    said = cluster.python("toolbox", code, f"command-dapr.{cluster.namespace}")

    assert "CERTIFICATE" in said.upper()


@pytest.mark.parametrize("service", REPLICATED)
def test_an_app_that_nobody_knows_is_denied(cluster: Cluster, rogue: str, service: str) -> None:
    status, said = cluster.call(rogue, "GET", f"invoke/{service}/method/dead-letters")

    assert (status, said["errorCode"]) == (403, "ERR_DIRECT_INVOKE")


def test_nobody_else_touches_a_workflow_of_the_saga_orchestrator(cluster: Cluster, rogue: str) -> None:
    actor = f"dapr.internal.{cluster.namespace}.saga-orchestrator.workflow"
    status, said = cluster.call(rogue, "PUT", f"actors/{actor}/any/method/PurgeWorkflowState", {})

    assert status >= 400
    assert "access denied by workflow access policy" in json.dumps(said)


def test_the_network_brings_only_sidecars_to_sidecars(
    cluster: Cluster, outsider: str, enforced: bool
) -> None:
    if not enforced:
        pytest.skip("this cluster's network heeds no NetworkPolicy")
    for service in REPLICATED:
        where = address(cluster, f"app.kubernetes.io/name={service}")
        reached = {
            (who, port): cluster.python(who, _REACH, where, port)
            for who in ("toolbox", outsider)
            for port in ("8000", "50002", "9090", "3500", "50001")
        }
        assert [at for at, so in reached.items() if so] == [("toolbox", "50002")], service


def test_a_pod_that_is_not_restricted_is_refused(cluster: Cluster) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "rogue"},
        "spec": {"containers": [{"name": "rogue", "image": "x", "securityContext": {"privileged": True}}]},
    }
    said = cluster.kubectl("create", "--filename", "-", stdin=json.dumps(pod), check=False)

    assert "violates PodSecurity" in said
