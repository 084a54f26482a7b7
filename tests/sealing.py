"""Personal fields for tests without a sidecar: the real cipher, under one key."""

from __future__ import annotations

from collections.abc import Mapping

from annals.privacy import SubjectKey


async def sealed(tenant: str, subject: str, fields: Mapping[str, str]) -> dict[str, str]:
    """See `annals.privacy.SubjectKeys.protect`."""
    key = SubjectKey(tenant, subject, bytes(range(64)))
    return {field: str(key.encrypt(field, text)) for field, text in fields.items()}
