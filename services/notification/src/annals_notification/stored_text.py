"""What others said, as the database takes it."""

from __future__ import annotations


def stored_text(said: str, at_most: int) -> str:
    """Its beginning, with a mark where PostgreSQL would refuse it: for a NUL, or half a character."""
    return said[:at_most].replace("\0", "\ufffd").encode(errors="replace").decode()
