"""Makes texts of other systems fit for the database."""

from __future__ import annotations


def stored_text(said: str, at_most: int) -> str:
    """Return the start of a text, with NULs and lone surrogates replaced: PostgreSQL refuses them."""
    return said[:at_most].replace("\0", "\ufffd").encode(errors="replace").decode()
