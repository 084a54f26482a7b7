"""Installs the chart on the cluster of the current context, in a namespace of its own.

`ANNALS_VALUES` names the values file with the cluster's broker and store. The cluster must be able to pull
the images; broker and store must be empty or hold only the data of an earlier run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from suite import runtime
from suite.paths import ROOT

CHART = ROOT / "charts" / "annals"
SERVICES = ("command", "projector", "saga-orchestrator", "notification", "console")
REPLICATED = SERVICES[:-1]
NAMESPACE = os.environ.get("ANNALS_NAMESPACE", "annals-test")
_MINUTES = "10m"


def run(*argv: str | Path, stdin: str | None = None, check: bool = True) -> str:
    """Run a program and return its output; if it fails, raise an error with that output."""
    result = subprocess.run([*map(str, argv)], input=stdin, capture_output=True, text=True, check=False)
    if check and result.returncode:
        raise AssertionError(f"{argv}: {result.returncode}\n{result.stdout[-4000:]}\n{result.stderr[-4000:]}")
    return result.stdout if not result.returncode else result.stdout + result.stderr


@dataclass(frozen=True, slots=True)
class Cluster:
    """A namespace of the cluster, and the chart in it."""

    namespace: str
    values: Sequence[str]

    def kubectl(self, *argv: str, stdin: str | None = None, check: bool = True) -> str:
        """Run kubectl in the namespace."""
        return run("kubectl", "--namespace", self.namespace, *argv, stdin=stdin, check=check)

    def helm(self, *argv: str | Path, check: bool = True) -> str:
        """Run helm in the namespace."""
        return run(runtime.helm(), *argv, "--namespace", self.namespace, check=check)

    def install(self, *argv: str) -> None:
        """Install or upgrade the chart, and wait until everything is ready."""
        values = [part for name in self.values for part in ("--values", name)]
        self.helm("upgrade", "--install", "annals", CHART, *values, *argv, "--wait", "--timeout", _MINUTES)

    def python(self, app: str, code: str, *argv: str) -> Any:
        """Run code in the app's own container, with its environment, and return the JSON that it prints."""
        where = ("exec", "--stdin", f"deploy/annals-{app}", "--container", app, "--", "python3", "-")
        # kubectl sometimes loses the output of a program that ends at once, so this code may run twice.
        said = self.kubectl(*where, *argv, stdin=code) or self.kubectl(*where, *argv, stdin=code)
        return json.loads(said)

    def call(self, app: str, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Call another app through the sidecar of `app`; return status and JSON. Status 0 means no answer."""
        answer = self.python(app, _CALL, json.dumps([method, path, body, headers]))
        return answer["status"], answer["body"]

    def rolled_out(self, *services: str) -> None:
        """Wait until all pods of the services are ready."""
        for service in services or SERVICES:
            self.kubectl("rollout", "status", f"deployment/annals-{service}", f"--timeout={_MINUTES}")


_CALL = """
import json, os, sys, urllib.error, urllib.request
method, path, body, headers = json.loads(sys.argv[1])
given = {"dapr-api-token": os.environ["DAPR_API_TOKEN"], "content-type": "application/json"}
given |= {name.replace("_", "-"): value for name, value in headers.items()}
data = None if body is None else json.dumps(body).encode()
url = path if path.startswith("http") else f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/{path}"
request = urllib.request.Request(url, data, {k: v for k, v in given.items() if v}, method=method)
try:
    answer = urllib.request.urlopen(request, timeout=60)
except urllib.error.HTTPError as error:
    answer = error
except OSError as error:
    print(json.dumps({"status": 0, "body": str(error)}))
    sys.exit()
text = answer.read().decode()
try:
    said = json.loads(text)
except ValueError:
    said = text
print(json.dumps({"status": answer.status, "body": said}))
"""


@pytest.fixture(scope="session")
def values() -> Sequence[str]:
    """The values files: the cluster's and the tests' own."""
    return (str(Path(os.environ["ANNALS_VALUES"]).resolve()), str(Path(__file__).parent / "values.yaml"))


@pytest.fixture(scope="session")
def cluster(values: Sequence[str]) -> Iterator[Cluster]:
    """Install the suite and yield its cluster; remove the namespace at the end."""
    if not shutil.which("kubectl"):
        pytest.fail("there is no kubectl")
    with namespace(NAMESPACE, values) as made:
        made.install()
        made.rolled_out()
        yield made


class namespace:  # noqa: N801 - a context manager
    """A namespace with the restricted pod security standard, deleted on exit unless ANNALS_KEEP is set."""

    def __init__(self, name: str, values: Sequence[str]) -> None:
        self._cluster = Cluster(name, values)

    def __enter__(self) -> Cluster:
        one = self._cluster
        level = "pod-security.kubernetes.io/enforce=restricted"
        there = run("kubectl", "get", "namespaces", "--output", "name").split()
        if f"namespace/{one.namespace}" not in there:
            run("kubectl", "create", "namespace", one.namespace)
        run("kubectl", "label", "--overwrite", "namespace", one.namespace, level)
        return one

    def __exit__(self, *_: object) -> None:
        if not os.environ.get("ANNALS_KEEP"):
            run("kubectl", "delete", "namespace", self._cluster.namespace, "--wait", "--timeout", _MINUTES)


@pytest.fixture
def name() -> str:
    """Return an id that no other test has."""
    return f"t-{uuid.uuid4()}"
