"""A query is answered 503, to be repeated, while the database or the event store is away."""

from __future__ import annotations

import grpc
import pytest
from fastapi.testclient import TestClient

from annals.dapr import DaprError, DatabaseError
from annals.store import StoreUnavailable
from annals_projector.app import create
from annals_projector.settings import ProjectorSettings


@pytest.mark.parametrize(
    "error",
    [
        DatabaseError("it is starting up"),
        StoreUnavailable("the state store cannot be read"),
        DaprError(grpc.StatusCode.UNKNOWN, "failed to connect"),
    ],
)
def test_a_database_that_is_away_is_a_503(error: Exception) -> None:
    app = create(ProjectorSettings())

    @app.get("/asked")
    async def asked() -> None:
        raise error

    answer = TestClient(app, raise_server_exceptions=False).get("/asked")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
