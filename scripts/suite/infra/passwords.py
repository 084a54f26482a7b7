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
    """Write a file that its owner alone may read, from its first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
