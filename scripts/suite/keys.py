"""Makes the suite's keys on this machine, once, and keeps them beside the data that needs them."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from suite.infra.passwords import write_private
from suite.runtime import Missing


def make(directory: Path) -> None:
    """Make the two key files that components/shared/keys.yaml reads, unless they exist.

    Raises Missing if only one of them exists, or if one cannot be read: the data needs these keys, and new
    ones cannot replace them.
    """
    signing, shared = directory / "signing-keys.json", directory / "shared-keys.json"
    begun = directory / "shared-keys.json.begun"  # its name until the matching signing key exists
    if not signing.exists() and not shared.exists():
        key = Ed25519PrivateKey.generate()
        _write(
            begun,
            {
                "audit-public-keys": _encoded(key.public_key().public_bytes_raw()),
                "personal-data-keys": _encoded(os.urandom(32)),
            },
        )
        _write(signing, {"audit-signing-key": _encoded(key.private_bytes_raw())})
    if begun.exists() and not shared.exists():
        begun.rename(shared)
    for file in (signing, shared):
        if (wrong := _wrong_with(file)) is not None:
            raise Missing(
                f"{file} is {wrong}, and the data in {directory} needs it: restore it from a backup, "
                "or run `make clean` to delete the data and begin again"
            )


def _wrong_with(file: Path) -> str | None:
    try:
        return None if isinstance(json.loads(file.read_text()), dict) else "damaged"
    except FileNotFoundError:
        return "gone"
    except ValueError:  # neither JSON nor text
        return "damaged"


def _write(path: Path, secrets: dict[str, str]) -> None:
    write_private(path, json.dumps(secrets))


def _encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()
