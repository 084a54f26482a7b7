"""From `make start` to ready, on a checkout with warm caches: first without data, then with it."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import results

from suite.paths import BIN, ROOT

pytestmark = [pytest.mark.bench, pytest.mark.timeout(400)]


def checkout(folder: Path) -> None:
    """Copy the files of this checkout that git tracks or would track, and link its environment."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    (folder / ".venv").symlink_to(BIN.parent)


async def make(folder: Path, target: str) -> float:
    """Run a target and return the seconds it took."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        "make", target, f"PYTHON={sys.executable}", cwd=folder, stdout=asyncio.subprocess.DEVNULL
    )
    assert await process.wait() == 0
    return time.perf_counter() - began


async def test_start(tmp_path: Path) -> None:
    await asyncio.to_thread(checkout, tmp_path)
    took: dict[str, float] = {}
    memory: dict[str, float] = {}
    for which in ("first", "again"):
        try:
            took[which] = await make(tmp_path, "start")
            report = json.loads((tmp_path / ".annals" / "suite.json").read_text())
            memory = {
                name: psutil.Process(int(process["pid"])).memory_info().rss / 2**20
                for name, process in report["processes"].items()
            }
        finally:
            await make(tmp_path, "stop")
    sys.stdout.write(f"make start: {took} s; {sum(memory.values()):.0f} MiB: {memory}\n")
    results.write("start", {"seconds": took, "memory": memory})
