"""A query while the database is away is answered 503, to be asked again."""

from __future__ import annotations

from fastapi.testclient import TestClient

from annals.projections import DatabaseError
from annals_projector.app import create
from annals_projector.settings import ProjectorSettings


def test_a_database_that_is_away_is_a_503() -> None:
    app = create(ProjectorSettings())

    @app.get("/asked")
    async def asked() -> None:
        raise DatabaseError("it is starting up")

    answer = TestClient(app, raise_server_exceptions=False).get("/asked")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
