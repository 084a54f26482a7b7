"""Stand-ins for the database and the dead letters, for tests that write rows and park nothing."""

from __future__ import annotations

from typing import Any

import orjson

from annals.events import RecordedEvent


class NoLetters:
    """Dead letters without any parked sequence or correction."""

    def require_fresh(self, *_: object) -> None:
        pass

    def find(self, *_: object) -> None:
        return None

    def corrected(self, _consumer: str, event: RecordedEvent) -> RecordedEvent:
        return event


class TakesEveryRow:
    """A database that accepts every row and keeps the ids of the written rows."""

    def __init__(self) -> None:
        self.written: list[str] = []

    async def fetch(self, sql: str, *params: str | None) -> Any:
        if "wanted" in sql:
            return []
        rows = orjson.loads(params[-1] or "[]")
        self.written += [row["id"] for row in rows]
        return [[0, row["tenant"], f"task-{row['id']}"] for row in rows]
