"""Checkpoints: digests of a lane's log up to a sequence, signed with Ed25519. Pure.

The private key is only where checkpoints are signed. Anyone who can write to the database but does not have
that key cannot change what a checkpoint covers without failing the verification.
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
    """Return the digest of a lane's log after one more commit; that of an empty log is the empty string."""
    stream = commit.stream
    said = [digest, commit.position.seq, stream.tenant, stream.name, commit.first, commit.last, commit.hash]
    return hashlib.sha256(orjson.dumps(said)).hexdigest()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A signed digest of a lane's log up to `seq`; see `rolled`.

    `previous` is the signature of the checkpoint before it, `key` the id of the key that signed it.
    """

    lane: int
    number: int
    seq: int
    digest: str
    time: str
    previous: str
    key: str = ""
    signature: str = ""

    def to_json(self) -> bytes:
        """Encode the checkpoint as JSON; see `from_json`."""
        return orjson.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, data: bytes) -> Checkpoint:
        """Decode a checkpoint. Raises ValueError or TypeError for anything else."""
        made = cls(**orjson.loads(data))
        for number in (made.lane, made.number, made.seq):
            index(number)
        return made

    def signed_content(self) -> bytes:
        """Return the bytes that the signature covers: all fields except the signature itself."""
        fields = dataclasses.asdict(self)
        del fields["signature"]
        return orjson.dumps(fields, option=orjson.OPT_SORT_KEYS)


def _key_id(public: Ed25519PublicKey) -> str:
    return hashlib.sha256(public.public_bytes_raw()).hexdigest()[:16]


class SigningKey:
    """An Ed25519 private key, from its 32 bytes in base64."""

    def __init__(self, encoded: str) -> None:
        """Decode the key. Raises ValueError if it is not one."""
        try:
            seed = base64.b64decode(encoded.strip(), validate=True)
            self._private = Ed25519PrivateKey.from_private_bytes(seed)
        except ValueError as error:
            raise ValueError(f"the signing key is not 32 bytes in base64: {error}") from error
        self.key_id = _key_id(self._private.public_key())

    def sign(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with this key's id and signature."""
        named = dataclasses.replace(checkpoint, key=self.key_id)
        signature = self._private.sign(named.signed_content())
        return dataclasses.replace(named, signature=base64.b64encode(signature).decode())


class VerificationKeys:
    """The public keys whose signatures are trusted: in base64, separated by commas.

    A key that no longer signs stays in the list for the checkpoints that it has signed.
    """

    def __init__(self, encoded: str) -> None:
        """Decode the keys. Raises ValueError if one is not a key."""
        keys = [
            Ed25519PublicKey.from_public_bytes(base64.b64decode(one.strip(), validate=True))
            for one in encoded.split(",")
        ]
        self._keys: Mapping[str, Ed25519PublicKey] = {_key_id(key): key for key in keys}

    def verifies(self, checkpoint: Checkpoint) -> bool:
        """Return whether a trusted key signed exactly this checkpoint."""
        try:
            key = self._keys[checkpoint.key]
            key.verify(base64.b64decode(checkpoint.signature), checkpoint.signed_content())
        except (InvalidSignature, KeyError, ValueError, TypeError):
            return False
        return True
