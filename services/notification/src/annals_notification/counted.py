"""Statements that answer how many rows they changed, for `annals.dapr.Database`, which needs one row each."""

from __future__ import annotations


def counted(change: str) -> str:
    """Return a statement that runs an INSERT, UPDATE or DELETE and answers how many rows it changed."""
    return f"WITH changed AS ({change} RETURNING 1)\nSELECT count(*)::text FROM changed"
