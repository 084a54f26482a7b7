"""Loads the suite while something happens to it, and checks that nothing acknowledged is missing."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import Cluster

_LOAD = (Path(__file__).parent / "load.py").read_text()


@contextmanager
def load(cluster: Cluster) -> Iterator[dict[str, Any]]:
    """Run load inside the block.

    Afterwards the yielded dictionary says how much was acknowledged, and what of it is wrong.
    """
    found: dict[str, Any] = {}
    where = ("exec", "--stdin", "deploy/annals-toolbox", "--container", "toolbox", "--")
    argv = ["kubectl", "--namespace", cluster.namespace, *where, "python3", "-", "load"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as sending:
        assert sending.stdin is not None
        sending.stdin.write(_LOAD)
        sending.stdin.close()
        sending.stdin = None
        time.sleep(5)  # let it get under way before anything happens
        assert sending.poll() is None, "the load ended at once"
        try:
            yield found
        finally:
            cluster.kubectl(*where, "python3", "-c", "open('/tmp/stop', 'w')")
            said, _ = sending.communicate(timeout=600)
    assert sending.returncode == 0, said
    found |= cluster.python("toolbox", _LOAD, "verify")


def assert_nothing_is_missing(found: dict[str, Any]) -> None:
    """Check that everything acknowledged took effect once and that every saga ended."""
    print(json.dumps(found))
    assert found["wrong"] == {}
    assert found["streams"] > 0
    assert found["sagas"] > 0
