"""Secure by default: what is denied, and to whom."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from annals.audit import Checkpoint, SigningKey, VerificationKeys
from annals.privacy.ciphers import KeyEncryptionKeys
from annals_console.access import RULES, Rule
from suite.paths import ROOT

from .conftest import BROKERS, EVERYTHING, Manifest, Refused, Render, metadata, of_kind
from .schemas import check

SERVICES = ("command", "projector", "saga-orchestrator", "notification")


def pods(manifests: list[Manifest]) -> dict[str, dict[str, Any]]:
    """Return the pods of the deployments and of the smoke test by name."""
    made = {name: one["spec"]["template"] for name, one in of_kind(manifests, "Deployment").items()}
    return made | {name: one["spec"]["template"] for name, one in of_kind(manifests, "Job").items()}


@pytest.mark.parametrize("broker", BROKERS)
def test_nothing_has_a_default_password(render: Render, broker: str) -> None:
    with pytest.raises(Refused, match=r"credentials\.[a-z-]+: the component [a-z-]+ needs it"):
        render({"broker": broker}, bare=True)


def test_tokens_differ_from_app_to_app(render: Render) -> None:
    secrets = of_kind(render(EVERYTHING), "Secret")

    tokens = [one["data"]["token"] for name, one in secrets.items() if name.endswith("-token")]
    assert len(tokens) == len(set(tokens)) >= 2 * len(SERVICES)
    assert all(len(base64.b64decode(token)) >= 40 for token in tokens)


def test_tokens_that_are_made_beforehand_are_nothing_of_the_chart(render: Render) -> None:
    made, given = render(EVERYTHING), render({**EVERYTHING, "tokens": {"create": False}})

    tokens = {name for name in of_kind(made, "Secret") if name.endswith("-token")}
    assert of_kind(given, "Secret").keys() == of_kind(made, "Secret").keys() - tokens
    for kind in ("Deployment", "Job"):
        asked = re.findall(r"[\w-]+-token\b", str(of_kind(given, kind)))
        assert asked == re.findall(r"[\w-]+-token\b", str(of_kind(made, kind)))
        assert {one for one in asked if one.startswith("annals-")} <= tokens


def test_every_pod_of_the_suite_has_both_of_its_tokens(render: Render) -> None:
    manifests = render()
    secrets = of_kind(manifests, "Secret")

    for name in SERVICES:
        pod = pods(manifests)[f"annals-{name}"]
        annotations = pod["metadata"]["annotations"]
        variables = {
            one["name"]: one["valueFrom"]["secretKeyRef"]["name"]
            for one in pod["spec"]["containers"][0]["env"]
            if "valueFrom" in one
        }
        assert variables == {
            "DAPR_API_TOKEN": annotations["dapr.io/api-token-secret"],
            "APP_API_TOKEN": annotations["dapr.io/app-token-secret"],
        }
        assert set(variables.values()) <= secrets.keys()


def test_the_edge_answers_others_than_its_sidecar(render: Render) -> None:
    service = {"enabled": True, "env": {"ANNALS_AUTH": "oidc"}, "envFrom": ["sign-in"]}
    manifests = render({"services": {"console": service}, "ingress": {"enabled": True}})

    pod = pods(manifests)["annals-console"]
    assert "dapr.io/app-token-secret" not in pod["metadata"]["annotations"]
    (container,) = pod["spec"]["containers"]
    assert {one["name"] for one in container["env"]} == {
        "DAPR_API_TOKEN",
        "APP_PORT",
        "ANNALS_METRICS_PORT",
        "ANNALS_AUTH",
    }
    assert container["envFrom"] == [{"secretRef": {"name": "sign-in"}}]
    assert set(of_kind(manifests, "Ingress")) == {"annals-console"}


def test_the_keys_that_are_made_fit_each_other(render: Render) -> None:
    secrets = of_kind(render(), "Secret")
    keys = {
        name: base64.b64decode(base64.b64decode(secrets[name]["data"][name]))
        for name in ("audit-signing-key", "audit-public-keys", "personal-data-keys")
    }

    public = Ed25519PrivateKey.from_private_bytes(keys["audit-signing-key"]).public_key()
    assert public.public_bytes_raw() == keys["audit-public-keys"]
    assert len(keys["personal-data-keys"]) == 32


def _has_ed25519() -> bool:
    """Return whether openssl can make Ed25519 keys; the one that macOS comes with may not."""
    argv = ["openssl", "genpkey", "-algorithm", "ed25519"]
    return (
        bool(shutil.which("openssl"))
        and subprocess.run(argv, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not _has_ed25519(), reason="no openssl here makes Ed25519 keys")
def test_the_keys_that_the_documentation_has_made_are_taken_and_fit_each_other(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (lines,) = (block for block in re.findall(r"```sh\n(.*?)```", text, re.S) if "signing.der" in block)
    given = "kubectl() { echo $4 ${7#--from-literal=}; }\n" + lines
    made = subprocess.run(
        ["sh", "-euc", given], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    keys = {}
    for name, literal in map(str.split, made):
        assert literal.startswith(f"{name}=")
        keys[name] = literal.removeprefix(f"{name}=")

    signed = SigningKey(keys["audit-signing-key"]).sign(Checkpoint(0, 1, 1, "", "", ""))
    assert VerificationKeys(keys["audit-public-keys"]).verifies(signed)
    assert KeyEncryptionKeys(keys["personal-data-keys"])
    assert not list(tmp_path.iterdir())


def test_keys_that_exist_are_not_made(render: Render) -> None:
    assert "audit-signing-key" not in of_kind(render({"keys": {"create": False}}), "Secret")


def test_a_sidecar_reads_just_the_secrets_of_its_own_components(render: Render) -> None:
    roles = of_kind(render(), "Role")

    readable = {}
    for name, role in roles.items():
        (rule,) = role["rules"]
        assert (rule["resources"], rule["verbs"]) == (["secrets"], ["get"])
        readable[name] = set(rule["resourceNames"])
    assert {name for name, secrets in readable.items() if "audit-signing-key" in secrets} == {
        "annals-command"
    }
    assert {name for name, secrets in readable.items() if "personal-data-keys" in secrets} == {
        "annals-command",
        "annals-projector",
    }
    assert {name for name, secrets in readable.items() if "annals-smtp-password" in secrets} == {
        "annals-notification"
    }
    assert not any(secret.endswith("-token") for secrets in readable.values() for secret in secrets)
    assert "annals-smoke-test" not in roles


def test_a_cloud_can_give_a_role_to_every_pod_with_a_sidecar(render: Render) -> None:
    role = {"eks.amazonaws.com/role-arn": "arn:aws:iam::111122223333:role/annals"}

    manifests = render({"serviceAccount": {"annotations": role}})

    accounts = of_kind(manifests, "ServiceAccount")
    assert {one["metadata"]["annotations"]["eks.amazonaws.com/role-arn"] for one in accounts.values()} == set(
        role.values()
    )
    for name in (*SERVICES, "smoke-test"):
        assert pods(manifests)[f"annals-{name}"]["spec"]["serviceAccountName"] in accounts
    assert all("annotations" not in one["metadata"] for one in of_kind(render(), "ServiceAccount").values())


def test_an_app_has_no_token_of_the_kubernetes_api(render: Render) -> None:
    for pod in pods(render(EVERYTHING)).values():
        if "dapr.io/enabled" in pod["metadata"].get("annotations", {}):
            assert pod["spec"]["automountServiceAccountToken"] is False
            mounts = [one["name"] for one in pod["spec"]["containers"][0]["volumeMounts"]]
            assert mounts == ["tmp"]


def test_pods_are_restricted(render: Render) -> None:
    of_others = pods(render({**EVERYTHING, "postgresql": {"bundled": False}}))
    assert "annals-settings" in of_others, "a job in a database that the chart does not bring"
    for pod in (pods(render(EVERYTHING)) | of_others).values():
        assert pod["spec"]["securityContext"]["runAsNonRoot"] is True
        assert pod["spec"]["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["spec"]["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"requests", "limits"} <= container["resources"].keys()


def test_so_are_those_that_kafkas_operator_makes(render: Render) -> None:
    (kafka,) = of_kind(render(EVERYTHING), "Kafka").values()

    made = kafka["spec"]["kafka"]["template"] | kafka["spec"]["entityOperator"]["template"]
    assert made.keys() == {"kafkaContainer", "topicOperatorContainer", "userOperatorContainer"}
    for container in made.values():
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "capabilities": {"drop": ["ALL"]},
        }


def test_the_job_before_the_release_reaches_just_what_the_suite_is_let_out_to_and_is_reached_by_nobody(
    render: Render,
) -> None:
    database = {"to": [{"ipBlock": {"cidr": "192.0.2.7/32"}}], "ports": [{"port": 5432}]}
    manifests = render({"networkPolicy": {"restrictEgress": True, "egress": [database]}})
    policies = of_kind(manifests, "NetworkPolicy")
    job = of_kind(manifests, "Job")["annals-settings"]

    policy = policies["annals-settings"]
    check(policy)
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    for name in ("annals-command", "annals-smoke-test"):
        assert not selected.items() <= pods(manifests)[name]["metadata"]["labels"].items()
    dns, named = policy["spec"]["egress"]
    assert ({one["port"] for one in dns["ports"]}, named) == ({53}, database)
    assert [dns, named] == policies["annals"]["spec"]["egress"][-2:]
    made, begun = policy["metadata"]["annotations"], job["metadata"]["annotations"]
    assert made["helm.sh/hook"] == begun["helm.sh/hook"]
    assert int(made["helm.sh/hook-weight"]) < int(begun.get("helm.sh/hook-weight", 0))

    unrestricted = of_kind(render(), "NetworkPolicy")["annals-settings"]["spec"]
    assert (unrestricted["policyTypes"], unrestricted.keys()) == (["Ingress"], {"podSelector", "policyTypes"})
    off = {"networkPolicy": {"enabled": False, "restrictEgress": True}}
    assert of_kind(render(off), "NetworkPolicy") == {}


def test_metrics_are_read_by_whom_the_values_name_and_nobody_has_to_be_taken_out(render: Render) -> None:
    def selected(**policy: Any) -> Any:
        spec = of_kind(render({"networkPolicy": policy}), "NetworkPolicy")["annals"]["spec"]
        (source,) = spec["ingress"][1]["from"]
        return source["namespaceSelector"]["matchLabels"]

    assert selected() == {"kubernetes.io/metadata.name": "monitoring"}
    assert selected(metricsFrom={"team": "watch"}) == {"team": "watch"}


def test_the_edge_is_reached_from_addresses_of_no_pod_too_unless_namespaces_are_named(render: Render) -> None:
    """Load balancers that send to a pod's address, and pods on the host's network, are in no namespace."""

    def let_in(**policy: Any) -> Any:
        values = {**EVERYTHING, "networkPolicy": policy}
        (rule,) = of_kind(render(values), "NetworkPolicy")["annals-console"]["spec"]["ingress"]
        return rule

    assert let_in() == {"ports": [{"port": "http"}]}
    namespaces = [{"namespaceSelector": {"matchLabels": {"team": "edge"}}}]
    assert let_in(edgeFrom={"team": "edge"}) == {"from": namespaces, "ports": [{"port": "http"}]}


def test_calls_are_denied_unless_somebody_is_named(render: Render) -> None:
    configurations = of_kind(render(EVERYTHING), "Configuration")

    for one in configurations.values():
        control = one["spec"]["accessControl"]
        assert control["defaultAction"] == "deny"
        assert all(policy["defaultAction"] == "deny" for policy in control["policies"])
    callers = {
        name.removeprefix("annals-"): {one["appId"] for one in made["spec"]["accessControl"]["policies"]}
        for name, made in configurations.items()
    }
    people = {"console", "toolbox"}
    assert callers == {
        "command": people | {"projector", "saga-orchestrator", "notification", "smoke-test"},
        "projector": people | {"saga-orchestrator", "smoke-test"},
        "saga-orchestrator": people,
        "notification": people,
        "console": set(),
        "toolbox": set(),
        "smoke-test": set(),
    }


def test_who_is_not_there_is_not_let_in(render: Render) -> None:
    def callers(**values: Any) -> set[str]:
        made = of_kind(render(values), "Configuration").values()
        return {one["appId"] for each in made for one in each["spec"]["accessControl"]["policies"]}

    services = {"projector", "saga-orchestrator", "notification"}
    assert callers() == services | {"smoke-test"}
    assert callers(smokeTest={"enabled": False}) == services
    assert callers(services={"toolbox": {"enabled": True}}) == services | {"smoke-test", "toolbox"}
    # An app of another chart is let in under the name given.
    rule = {"from": "billing", "verbs": ["GET"], "paths": ["/queries/tasks"]}
    assert callers(services={"projector": {"allow": [rule]}}) == services | {"smoke-test", "billing"}


def test_the_saga_orchestrator_asks_only_what_its_sagas_and_its_pages_ask(render: Render) -> None:
    configuration = of_kind(render(), "Configuration")["annals-projector"]
    (policy,) = (
        one
        for one in configuration["spec"]["accessControl"]["policies"]
        if one["appId"] == "saga-orchestrator"
    )
    asked = {one["name"] for one in policy["operations"]}
    assert asked == {"/queries/tasks", "/queries/sagas", "/sagas/unmoved"}


def test_the_console_may_call_just_what_its_edge_lets_through(render: Render) -> None:
    allowed = {
        name.removeprefix("annals-"): [
            (operation["name"], operation["httpVerb"])
            for policy in one["spec"]["accessControl"]["policies"]
            if policy["appId"] == "console"
            for operation in policy["operations"]
        ]
        for name, one in of_kind(render(EVERYTHING), "Configuration").items()
    }

    for rule in RULES:
        paths = [path for path, verbs in allowed[rule.service] if rule.method in verbs]
        assert any(_covers(path, rule) for path in paths), f"{rule.method} {rule.service} /{rule.path}"
    for service, operations in allowed.items():
        for path, _ in operations:
            # The console's health page reads the metrics itself.
            asked = path == "/metrics" or any(
                _covers(path, rule) for rule in RULES if rule.service == service
            )
            assert asked, f"{service} {path} is asked for by nobody"


def _covers(path: str, rule: Rule) -> bool:
    return f"/{rule.path}/".startswith(f"{path}/")


def test_apps_publish_and_subscribe_only_what_is_theirs(render: Render) -> None:
    components = of_kind(render(), "Component")

    scopes = {
        name: (metadata(one)["publishingScopes"], metadata(one)["subscriptionScopes"])
        for name, one in components.items()
        if one["spec"]["type"].startswith("pubsub.")
    }
    assert scopes == {
        "domain-events": (
            "command=domain-events;notification=;projector=projector.dead-letters;saga-orchestrator=",
            "command=;notification=domain-events;projector=domain-events;saga-orchestrator=domain-events",
        ),
        "saga-events": (
            "notification=;projector=projector.dead-letters;saga-orchestrator=saga-events",
            "notification=saga-events;projector=saga-events;saga-orchestrator=",
        ),
        "integration-events": (
            "notification=notification.dead-letters,integration-events;saga-orchestrator=integration-events",
            "notification=integration-events;saga-orchestrator=",
        ),
        "dead-letters": (
            "notification=;projector=",
            "notification=notification.dead-letters;projector=projector.dead-letters",
        ),
    }


def test_workflows_are_run_by_the_saga_orchestrator_alone(render: Render) -> None:
    (policy,) = of_kind(render(), "WorkflowAccessPolicy").values()

    assert policy["scopes"] == ["saga-orchestrator"]
    assert [rule["callers"] for rule in policy["spec"]["rules"]] == [[{"appID": "saga-orchestrator"}]]


def test_an_app_asks_its_sidecar_only_for_what_the_suite_uses(render: Render) -> None:
    for one in of_kind(render(), "Configuration").values():
        allowed = {rule["name"] for rule in one["spec"]["api"]["allowed"]}
        assert allowed.isdisjoint({"shutdown", "actors", "lock", "subscribe"})
        scopes = {scope["storeName"]: scope for scope in one["spec"]["secrets"]["scopes"]}
        assert all(scope["defaultAccess"] == "deny" for scope in scopes.values())
        assert "allowedSecrets" not in scopes["secretstore"]
        assert "nameResolution" not in one["spec"]
