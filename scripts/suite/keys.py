"""The keys of the suite on this machine: made once, kept beside the data that they belong to."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from suite.infra.passwords import write_private


def make(directory: Path) -> None:
    """Make what components/shared/keys.yaml reads, unless it is there."""
    signing, shared = directory / "signing-keys.json", directory / "shared-keys.json"
    if signing.exists() and shared.exists():
        return
    key = Ed25519PrivateKey.generate()
    _write(signing, {"audit-signing-key": _encoded(key.private_bytes_raw())})
    _write(
        shared,
        {
            "audit-public-keys": _encoded(key.public_key().public_bytes_raw()),
            "personal-data-keys": _encoded(os.urandom(32)),
        },
    )


def _write(path: Path, secrets: dict[str, str]) -> None:
    write_private(path, json.dumps(secrets))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
