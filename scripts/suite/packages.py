"""Finds the servers that no package index has as a wheel, or installs them with apt-get if this is root."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from suite.progress import step
from suite.runtime import Missing

# A program of each package, which shows that the package is installed; its names on Debian and Homebrew.
_PACKAGES = {
    "rabbitmq-server": ("rabbitmq-server", "rabbitmq"),
    "redis-server": ("redis-server", "redis"),
    "mosquitto": ("mosquitto", "mosquitto"),
    "mariadbd": ("mariadb-server", "mariadb"),
    "faketime": ("faketime", "libfaketime"),
}
# Debian installs servers into sbin directories, which the PATH of most users lacks.
_PATH = os.pathsep.join(
    (os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/opt/homebrew/bin")
)
_POLICY = Path("/usr/sbin/policy-rc.d")
# The text identifies a file that a killed installation has left behind.
_NOTHING_STARTS = "#!/bin/sh\n# Of Annals, while it installs a server: nothing is started.\nexit 101\n"


def program(name: str) -> Path:
    """Return the path of a server's program. If it is missing, install its package, as root on Debian.

    Raises Missing, whose text says what to install.
    """
    found = shutil.which(name, path=_PATH)
    if found is None:
        _install(name)
        found = shutil.which(name, path=_PATH)
    if found is None:
        raise Missing(f"{name} is not found although its package is installed.")
    return Path(found)


def beside(name: str, helper: str) -> Path:
    """Return the path of a helper program from the package of `name`. Raises Missing."""
    program(name)
    found = shutil.which(helper, path=_PATH)
    if found is None:
        raise Missing(f"{helper}, which comes with {name}, is not found.")
    return Path(found)


def _install(name: str) -> None:
    debian, brew = _PACKAGES[name]
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Missing(
            f"{name} is needed: install it (apt install {debian}, brew install {brew}) and try again."
        )
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    with step(f"Installing {debian} with apt-get; its service is not started"), _services_stay_off():
        for arguments in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", debian]):
            result = subprocess.run(
                ["apt-get", *arguments], env=environment, capture_output=True, text=True, check=False
            )
            if result.returncode:
                raise Missing(f"{debian} could not be installed:\n{result.stderr[-1000:]}")


@contextmanager
def _services_stay_off() -> Iterator[None]:
    """Keep Debian from starting the services that it installs; leave a machine's own policy alone."""
    if _POLICY.exists() and _POLICY.read_text() != _NOTHING_STARTS:
        yield
        return
    with _put_off(signal.SIGTERM, signal.SIGHUP):
        _POLICY.write_text(_NOTHING_STARTS)
        _POLICY.chmod(0o755)
        try:
            yield
        finally:
            _POLICY.unlink()


@contextmanager
def _put_off(*numbers: signal.Signals) -> Iterator[None]:
    """Delay these signals until the block has ended; only the main thread can, so elsewhere do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for late in came:
            signal.raise_signal(late)
