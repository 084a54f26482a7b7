"""How many rows a statement changes, for a database that answers with one text: `annals.dapr.Database`."""

from __future__ import annotations


def counted(change: str) -> str:
    """An INSERT, UPDATE or DELETE as a statement that answers how many rows it changed."""
    return f"WITH changed AS ({change} RETURNING 1)\nSELECT count(*)::text FROM changed"
