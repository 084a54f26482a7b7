"""Checkpoints: what a lane's log was, up to a sequence, signed with Ed25519. Pure.

The private key is only where checkpoints are signed. Who can write to the database, but has not that
key, cannot change what a checkpoint covers without a verification that fails.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from operator import index

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from annals.store.protocol import Commit


def rolled(digest: str, commit: Commit) -> str:
    """The digest of a lane's log with one more commit; the digest of an empty log is empty."""
    stream = commit.stream
    said = [digest, commit.position.seq, stream.tenant, stream.name, commit.first, commit.last, commit.hash]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Signs a lane's log up to `seq`, behind the checkpoint before it (`previous`, its signature)."""

    lane: int
    number: int
    seq: int
    digest: str
    time: str
    previous: str
    key: str = ""
    signature: str = ""

    def to_json(self) -> bytes:
        """See `from_json`."""
        return orjson.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Checkpoint:
        """Raises ValueError or TypeError for what is no checkpoint."""
        made = cls(**orjson.loads(data))
        for number in (made.lane, made.number, made.seq):
            index(number)
        return made

    def signed_content(self) -> bytes:
        """What the signature is of."""
        fields = dataclasses.asdict(self)
        del fields["signature"]
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def _key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


class SigningKey:
    """An Ed25519 private key, from its 32 bytes in base64."""

    def __init__(self, encoded: str) -> None:
        """Raises ValueError for what is no such key."""
        self._private = Ed25519PrivateKey.from_private_bytes(base64.b64decode(encoded.strip(), validate=True))
        self.key_id = _key_id(self._private.public_key())

    def sign(self, checkpoint: Checkpoint) -> Checkpoint:
        """The checkpoint, signed."""
        named = dataclasses.replace(checkpoint, key=self.key_id)
        signature = self._private.sign(named.signed_content())
        return dataclasses.replace(named, signature=base64.b64encode(signature).decode())


class VerificationKeys:
    """The public keys that checkpoints are trusted by: base64, several of them divided by commas.

    A key that signs no more stays in the list for what it has signed.
    """

    def __init__(self, encoded: str) -> None:
        """Raises ValueError for what is no such key."""
        keys = [
            Ed25519PublicKey.from_public_bytes(base64.b64decode(one.strip(), validate=True))
            for one in encoded.split(",")
        ]
        self._keys: Mapping[str, Ed25519PublicKey] = {_key_id(key): key for key in keys}

    def verifies(self, checkpoint: Checkpoint) -> bool:
        """Whether a trusted key signed it just so."""
        try:
            key = self._keys[checkpoint.key]
            key.verify(base64.b64decode(checkpoint.signature), checkpoint.signed_content())
        except (InvalidSignature, KeyError, ValueError, TypeError):
            return False
        return True
