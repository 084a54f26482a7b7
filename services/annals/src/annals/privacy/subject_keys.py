"""The subjects' keys in the state store: created on first use, cached for seconds, shredded for good."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import TypeVar

import orjson
import structlog

from annals.dapr import DaprError, DaprSidecar, StateConflict, StateValue, Write
from annals.privacy.ciphers import InvalidKeys, KeyEncryptionKeys, SubjectKey, Wrapped
from annals.privacy.personal import SubjectErased, Token, replaced, tokens_in
from annals.store import StoreUnavailable, Undecodable, keys, records
from annals.telemetry.said import Said

_log = structlog.get_logger(__name__)

_CACHE_SECONDS = 5.0  # for a key; other instances may use a shredded key for this long
_SECRET_SECONDS = 5.0  # at least, before the secret is read again
_CACHED = 10_000  # keys
_BULK = 200  # keys in one read

T = TypeVar("T")
_Place = tuple[str, str]


class SubjectKeys:
    """Encrypts and decrypts personal data; `secret` reads the key-encryption keys from the secret store.

    Every method raises StoreUnavailable if a key cannot be read, `protect` also if it cannot be unwrapped.
    """

    def __init__(self, sidecar: DaprSidecar, store: str, secret: Callable[[], Awaitable[str]]) -> None:
        self._sidecar = sidecar
        self._store = store
        self._secret = secret
        self._wrapping: KeyEncryptionKeys | None = None
        self._read_at = float("-inf")
        self._reading = asyncio.Lock()
        self._cache: OrderedDict[_Place, tuple[float, SubjectKey | None]] = OrderedDict()
        self._said = Said()

    async def protect(self, tenant: str, subject: str, fields: Mapping[str, str]) -> dict[str, str]:
        """Encrypt fields of a subject; return their tokens. Raises SubjectErased."""
        with _unavailable():
            key = await self._cached_or_read(tenant, subject) or await self._make(tenant, subject)
        return {field: str(key.encrypt(field, text)) for field, text in fields.items()}

    async def disclose(self, tenant: str, value: T) -> T:
        """Decrypt the tokens of the tenant's subjects in a JSON value; those of erased subjects become None.

        A token that the subject's key does not decrypt stays as it is. So does one whose key cannot be
        unwrapped; that is logged.
        """
        tokens = tokens_in(value)
        if not tokens:
            return value
        with _unavailable():
            known = await self._read_all(tenant, {token.subject for token in tokens})
        plain = {token: _shown(token, known[token.subject]) for token in tokens if token.subject in known}
        disclosed: T = replaced(value, plain)
        return disclosed

    async def shred(self, tenant: str, subject: str) -> None:
        """Overwrite a subject's key; whatever was encrypted with it is lost. May be repeated."""
        with _unavailable():
            while not await self._shredded(keys.subject(tenant, subject)):
                pass
        self._cache.pop((tenant, subject), None)

    async def _shredded(self, name: str) -> bool:
        """Try to shred a key; return False if another instance wrote it meanwhile."""
        value = await self._sidecar.get(self._store, name)
        with suppress(Undecodable):  # a damaged key is overwritten, too
            if value is not None and records.decoded(name, value.data, _wrapped) is None:
                return True
        erased = orjson.dumps({"erased_at": datetime.now(UTC)})
        try:
            await self._sidecar.save(self._store, Write.replacing(name, erased, value))
        except StateConflict:
            return False
        return True

    async def _cached_or_read(self, tenant: str, subject: str) -> SubjectKey | None:
        """Return a subject's key, or None if there is none yet. Raises SubjectErased."""
        fresh = self._fresh((tenant, subject))
        if fresh is not None and fresh[1] is not None:
            return fresh[1]
        value = await self._sidecar.get(self._store, keys.subject(tenant, subject))
        if value is None:
            return None
        key = await self._decode(tenant, subject, value)
        if key is None:
            raise SubjectErased(f"{subject} was erased")
        self._remember((tenant, subject), key)
        return key

    async def _make(self, tenant: str, subject: str) -> SubjectKey:
        key = SubjectKey.generate(tenant, subject)
        wrapped = (await self._key_encryption_keys()).wrap(key)
        data = orjson.dumps({"wrapped_by": wrapped.wrapped_by, "sealed": wrapped.sealed})
        write = Write(keys.subject(tenant, subject), data, insert_only=True)
        try:
            await self._sidecar.save(self._store, write)
        except StateConflict:
            # Another instance was faster, or this write was applied although its reply was lost.
            made = await self._cached_or_read(tenant, subject)
            if made is None:
                raise
            return made
        self._remember((tenant, subject), key)
        return key

    async def _read_all(self, tenant: str, subjects: set[str]) -> dict[str, SubjectKey | None]:
        """Return the keys of subjects; None for a subject that was erased, or never had a key.

        A subject whose key cannot be decoded or unwrapped is left out.
        """
        known: dict[str, SubjectKey | None] = {}
        wanted = []
        for subject in sorted(subjects):
            fresh = self._fresh((tenant, subject))
            if fresh is None:
                wanted.append(subject)
            else:
                known[subject] = fresh[1]
        for start in range(0, len(wanted), _BULK):
            page = {keys.subject(tenant, subject): subject for subject in wanted[start : start + _BULK]}
            values = await self._sidecar.get_certain(self._store, list(page))
            for name, subject in page.items():
                try:
                    key = await self._decode(tenant, subject, values[name]) if name in values else None
                except (InvalidKeys, Undecodable) as error:
                    if self._said.is_news(error, (tenant, subject)):
                        _log.error(
                            "a subject's data stays unreadable",
                            tenant=tenant,
                            subject=subject,
                            error=str(error),
                        )
                    continue
                self._said.is_over((tenant, subject))
                self._remember((tenant, subject), key)
                known[subject] = key
        return known

    async def _decode(self, tenant: str, subject: str, value: StateValue) -> SubjectKey | None:
        wrapped = records.decoded(keys.subject(tenant, subject), value.data, _wrapped)
        if wrapped is None:
            return None
        return (await self._key_encryption_keys(wrapped)).unwrap(tenant, subject, wrapped)

    async def _key_encryption_keys(self, wrapped: Wrapped | None = None) -> KeyEncryptionKeys:
        """Return the key-encryption keys, which are read once.

        They are read again for a key that none of them wrapped: other instances may already use a new one.
        """
        async with self._reading:
            known = self._wrapping
            lacking = known is not None and wrapped is not None and wrapped.wrapped_by not in known
            if known is None or (lacking and time.monotonic() - self._read_at > _SECRET_SECONDS):
                self._read_at = time.monotonic()
                known = self._wrapping = KeyEncryptionKeys(await self._secret())
            return known

    def _fresh(self, place: _Place) -> tuple[float, SubjectKey | None] | None:
        found = self._cache.get(place)
        return found if found is not None and found[0] > time.monotonic() else None

    def _remember(self, place: _Place, key: SubjectKey | None) -> None:
        self._cache[place] = (time.monotonic() + _CACHE_SECONDS, key)
        self._cache.move_to_end(place)
        if len(self._cache) > _CACHED:
            self._cache.popitem(last=False)


def _wrapped(data: bytes) -> Wrapped | None:
    """Decode a stored key; None if it was shredded."""
    fields = orjson.loads(data)
    return None if "erased_at" in fields else Wrapped(str(fields["wrapped_by"]), str(fields["sealed"]))


def _shown(token: Token, key: SubjectKey | None) -> str | None:
    """Return a token's text: the token itself if it was not made with `key`, None if there is no key."""
    if key is None:
        return None
    text = key.decrypt(token)
    return str(token) if text is None else text


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except (DaprError, InvalidKeys, Undecodable) as error:
        raise StoreUnavailable(f"the keys of personal data: {error}") from error
