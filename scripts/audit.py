"""Checks for known vulnerabilities in dependencies, secrets in the git history, and unsafe chart settings.

Every check runs, even if an earlier one has failed. A check that cannot run has failed too.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import yaml

import bootstrap
from suite import page, runtime
from suite.paths import ROOT

LOCKS = (
    "requirements.lock",
    "services/requirements.lock",
    "services/images.lock",
    "scripts/audit.lock",
    "tests/bench/requirements.lock",
)
CHECKOV = "checkov==3.3.30"
"""Installed in an environment of its own: its requirements would hold back the versions that Annals uses."""

ACCEPTED = {
    "CKV_K8S_43": "images are built by whoever installs them, and named by the version's tag",
    "CKV_K8S_15": "a version's tag is not pushed again; on a cluster without a registry Always cannot start",
    "CKV_K8S_35": "Dapr itself hands an app and its sidecar their tokens in the environment",
    "CKV_K8S_40": "images say USER 65532; a number here would keep it off OpenShift, which has its own",
}
"""Checkov's rules that the check of the chart skips, with the reason."""


def looked(what: str, argv: list[str], cwd: Path = ROOT, environment: Mapping[str, str] = os.environ) -> bool:
    """Run one check under a heading and return whether it passed; a failure is printed."""
    print(f"== {what}", flush=True)
    ended = subprocess.run(argv, cwd=cwd, env=environment, check=False).returncode
    if ended:
        print(f"== {what}: FAILED", flush=True)
    return ended == 0


def packages() -> bool:
    """Audit the Python packages of each lock file."""
    tool = [str(bootstrap.uv()), "run", "--quiet", "--isolated", "--no-project"]
    tool += [
        "--with-requirements",
        "scripts/audit.lock",
        "pip-audit",
        "--strict",
        "--vulnerability-service",
        "pypi",
    ]
    tool += ["--disable-pip", "--require-hashes", "--progress-spinner", "off"]
    found = [looked(f"packages in {lock}", [*tool, "--requirement", lock]) for lock in LOCKS]
    return all(found)


def pages_packages() -> bool:
    """Audit the npm packages of the console's page."""
    node = page.node()
    argv = [*node.npm, "audit", "--package-lock-only"]
    return looked("packages of the page", argv, page.WEB, node.environment)


def secrets() -> bool:
    """Search every commit that HEAD descends from for secrets."""
    return looked(
        "secrets",
        [str(runtime.gitleaks()), "git", "--no-banner", "--redact", "--verbose", "--log-opts=HEAD", "."],
    )


def chart() -> bool:
    """Check the chart, rendered with a value for each credential."""
    names = {
        item["secretKeyRef"]["name"]
        for path in (ROOT / "components").glob("*/**/*.yaml")
        for document in yaml.safe_load_all(path.read_text())
        if document["kind"] == "Component"
        for item in document["spec"].get("metadata", [])
        if "secretKeyRef" in item
    }
    with tempfile.TemporaryDirectory() as folder:
        values = Path(folder) / "values.yaml"
        values.write_text(yaml.safe_dump({"credentials": {name: {"value": f"the-{name}"} for name in names}}))
        argv = [str(runtime.helm()), "template", "annals", "charts/annals", "--namespace", "here"]
        argv += ["--values", str(values), "--kube-version", f"{runtime.KUBERNETES}.0"]
        rendered = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        file = Path(folder) / "annals.yaml"
        file.write_text(rendered)
        tool = [str(bootstrap.uv()), "tool", "run", "--quiet", "--from", CHECKOV, "checkov"]
        tool += ["--file", str(file), "--framework", "kubernetes", "--compact", "--quiet", "--skip-download"]
        return looked("chart", [*tool, "--skip-check", ",".join(ACCEPTED)])


if __name__ == "__main__":
    sys.exit(not all([packages(), pages_packages(), secrets(), chart()]))
