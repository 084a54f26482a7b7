"""`make start`, `status` and `stop`: what a user types, and what must be gone afterwards."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from suite import supervisor
from suite.paths import ROOT


def suite(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "suite", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT / "scripts")},
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


@pytest.fixture
def stopped() -> Iterator[None]:
    assert supervisor.read() is None, "a suite runs from this checkout: `make stop` it first"
    yield
    suite("stop")


def report() -> supervisor.Report:
    found = supervisor.read()
    assert found is not None
    return found


def test_a_suite_is_started_watched_and_stopped(stopped: None) -> None:
    started = suite("start")
    assert started.returncode == 0, started.stdout + started.stderr
    assert "http://127.0.0.1:3501" in started.stdout
    assert suite("start").returncode == 0
    assert suite("start", "kafka-postgres").returncode == 1

    victim = report().processes["command"]["pid"]
    os.kill(int(victim), signal.SIGKILL)
    deadline = time.monotonic() + 60
    while (now := report().processes["command"])["state"] != "ready" or now["pid"] == victim:
        assert time.monotonic() < deadline, now
        time.sleep(0.1)
    assert now["restarts"] == "1"
    assert suite("status").returncode == 0

    before = report()
    assert suite("stop").returncode == 0
    assert not [child for child in (before.supervisor, *before.children) if child.alive()]
    assert suite("status").returncode == 3
    assert suite("stop").returncode == 0


def test_an_unknown_profile_is_refused() -> None:
    refused = suite("start", "carrier-pigeon")
    assert refused.returncode == 2
    assert "kafka-postgres" in refused.stdout
