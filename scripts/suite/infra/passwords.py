"""Passwords of the servers on this machine: generated at the first start, readable by their owner only."""

from __future__ import annotations

import secrets
from pathlib import Path


def password(path: Path) -> str:
    """Return the password that a file keeps; generate one if there is no such file."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text()


def write_private(path: Path, text: str) -> None:
    """Write a file atomically, readable by its owner only from the first byte on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600)
    partial.write_text(text)
    partial.rename(path)
