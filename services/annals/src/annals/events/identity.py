"""Identifiers: ids, tenants, streams and positions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Self

import uuid_utils
from pydantic import StringConstraints

TENANT = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_STREAM = re.compile(r"[a-z][a-z0-9_]{0,62}-[A-Za-z0-9._~@:-]{1,128}")
_POSITION = re.compile(r"(0|[1-9][0-9]{0,8})-(0|[1-9][0-9]{0,17})")

MAX_HEADER_ID = 256
_HEADER_ID = rf"^[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]{{0,{MAX_HEADER_ID - 2}}}[^\x00-\x20\x7f])?$"

HeaderId = Annotated[str, StringConstraints(pattern=_HEADER_ID)]
"""An id that a header can carry: no control characters, and no blanks at its ends."""

_REMEMBERED_STREAMS = 50_000


def new_id() -> str:
    """Return a UUIDv7, which is unique and sorts by the time of its creation (RFC 9562, 5.7)."""
    return str(uuid_utils.uuid7())


def is_tenant(name: str) -> bool:
    """Whether a tenant can have this name."""
    return TENANT.fullmatch(name) is not None


def is_header_id(text: str) -> bool:
    """Whether a text is a `HeaderId`."""
    return re.fullmatch(_HEADER_ID, text) is not None


@dataclass(frozen=True, slots=True)
class StreamId:
    """One aggregate's stream, within its tenant. Raises ValueError for a malformed name."""

    tenant: str
    name: str

    def __post_init__(self) -> None:
        if not TENANT.fullmatch(self.tenant):
            raise ValueError(f"a tenant is like {TENANT.pattern}, not {self.tenant!r}")
        if not _STREAM.fullmatch(self.name):
            raise ValueError(f"a stream is like {_STREAM.pattern}, not {self.name!r}")

    @classmethod
    def of(cls, tenant: str, aggregate_type: str, aggregate_id: str) -> StreamId:
        """Return the stream of an aggregate."""
        return cls.named(tenant, f"{aggregate_type}-{aggregate_id}")

    @staticmethod
    def named(tenant: str, name: str) -> StreamId:
        """Return the stream of a name. A cache keeps names that were checked, because most come again."""
        return _named(tenant, name)

    def __str__(self) -> str:
        return f"{self.tenant}/{self.name}"


@lru_cache(maxsize=_REMEMBERED_STREAMS)
def _named(tenant: str, name: str) -> StreamId:
    return StreamId(tenant, name)


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """The place of a commit: a lane, and the sequence in it. It is written as `lane-seq`."""

    lane: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the position in a text such as `0-42`. Raises ValueError."""
        match = _POSITION.fullmatch(text)
        if match is None:
            raise ValueError(f"a position is like 0-42, not {text!r}")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.lane}-{self.seq}"
