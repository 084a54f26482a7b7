"""The ciphers: a subject's key encrypts its data, and a key-encryption key wraps the subject's key. Pure.

Data is encrypted with AES-SIV (RFC 5297), which gives the same ciphertext for the same text: a command that
is sent again has the same fingerprint. Subjects' keys are wrapped with AES-256-GCM.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, AESSIV

from annals.privacy.personal import Token

_NONCE_BYTES = 12
_KEY_BYTES = 32


class InvalidKeys(ValueError):
    """A key-encryption key or a wrapped key cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class SubjectKey:
    """The key of one subject of one tenant."""

    tenant: str
    subject: str
    key: bytes

    @classmethod
    def generate(cls, tenant: str, subject: str) -> SubjectKey:
        """Return a new random key."""
        return cls(tenant, subject, AESSIV.generate_key(512))

    def encrypt(self, field: str, text: str) -> Token:
        """Encrypt a field of the subject; return its token."""
        sealed = AESSIV(self.key).encrypt(text.encode(), self._bound_to(field))
        return Token(self.subject, field, base64.urlsafe_b64encode(sealed).decode().rstrip("="))

    def decrypt(self, token: Token) -> str | None:
        """Return the text of a token, or None if it was not made with this key."""
        try:
            padded = token.ciphertext + "=" * (-len(token.ciphertext) % 4)
            sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
            return AESSIV(self.key).decrypt(sealed, self._bound_to(token.field)).decode()
        except (InvalidTag, ValueError):
            return None

    def _bound_to(self, field: str) -> list[bytes]:
        """Return what a field's ciphertext is bound to, so that it cannot be moved elsewhere."""
        return [self.tenant.encode(), self.subject.encode(), field.encode()]


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A subject's key, encrypted with the key-encryption key that `wrapped_by` names."""

    wrapped_by: str
    sealed: str


class KeyEncryptionKeys:
    """The keys that wrap the subjects' keys: 32 bytes each, in base64, separated by commas.

    The first key wraps and all unwrap, so a key is replaced by putting a new one before it.
    """

    def __init__(self, encoded: str) -> None:
        """Decode the keys. Raises InvalidKeys."""
        try:
            keys = [base64.b64decode(one.strip(), validate=True) for one in encoded.split(",")]
        except ValueError as error:
            raise InvalidKeys("expected base64, with commas between several keys") from error
        if any(len(key) != _KEY_BYTES for key in keys):
            raise InvalidKeys(f"expected keys of {_KEY_BYTES} bytes")
        self._keys: Mapping[str, bytes] = {_key_id(key): key for key in keys}
        self._first = _key_id(keys[0])

    def __contains__(self, key_id: str) -> bool:
        """Return whether the key that a `Wrapped.wrapped_by` names is among these."""
        return key_id in self._keys

    def wrap(self, key: SubjectKey) -> Wrapped:
        """Wrap a subject's key with the first key-encryption key."""
        nonce = os.urandom(_NONCE_BYTES)
        cipher = AESGCM(self._keys[self._first])
        sealed = nonce + cipher.encrypt(nonce, key.key, _owner(key.tenant, key.subject))
        return Wrapped(self._first, base64.b64encode(sealed).decode())

    def unwrap(self, tenant: str, subject: str, wrapped: Wrapped) -> SubjectKey:
        """Return the subject's key. Raises InvalidKeys if none of these wrapped it, or if it was altered."""
        if wrapped.wrapped_by not in self:
            raise InvalidKeys(f"the key-encryption key {wrapped.wrapped_by} is not in the secret store")
        cipher = AESGCM(self._keys[wrapped.wrapped_by])
        try:
            sealed = base64.b64decode(wrapped.sealed)
            key = cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], _owner(tenant, subject))
        except (InvalidTag, ValueError) as error:
            raise InvalidKeys(f"the key of {tenant}/{subject} was altered in the store") from error
        return SubjectKey(tenant, subject, key)


def _key_id(key: bytes) -> str:
    return hashlib.sha256(key).hexdigest()[:16]


def _owner(tenant: str, subject: str) -> bytes:
    return f"{tenant}/{subject}".encode()
