"""Protects personal fields in tests without a sidecar, with the real cipher under a fixed key."""

from __future__ import annotations

from collections.abc import Mapping

from annals.privacy import SubjectKey


async def sealed(tenant: str, subject: str, fields: Mapping[str, str]) -> dict[str, str]:
    """Encrypt `fields` as `annals.privacy.SubjectKeys.protect` does."""
    key = SubjectKey(tenant, subject, bytes(range(64)))
    return {field: str(key.encrypt(field, text)) for field, text in fields.items()}
