"""Passwords of the servers on this machine: made at the first start, readable by their owner alone."""

from __future__ import annotations

import secrets
from pathlib import Path


def password(path: Path) -> str:
    """The password that a file keeps; made when there is none."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read, from its first byte on: whole, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.rename(path)
