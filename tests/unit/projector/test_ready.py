"""A projector reports what it lacks to be ready."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from annals.projections import Sweeper
from annals.store import Undecodable
from annals_projector import app as module
from annals_projector.settings import ProjectorSettings


def test_one_whose_read_models_have_commits_that_the_store_does_not_have_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Ahead(Sweeper):
        def __init__(self, *given: object) -> None:
            super().__init__(*given)  # type: ignore[arg-type]
            self.applied_but_missing = {5: 3, 0: 1_001}

    monkeypatch.setattr(module, "Sweeper", Ahead)
    with TestClient(module.create(ProjectorSettings(dapr_grpc_port=1, dapr_http_port=1))) as client:
        answer = client.get("/readyz")
    assert answer.status_code == 503
    reason = answer.json()["missing"]["read models"]
    assert "lane 0 up to 1001, 5 up to 3" in reason
    assert "emptied, or it lost commits" in reason
    assert "drop" not in reason, (
        "this projector would not make the tables anew, and the store may be repaired"
    )


def test_an_event_that_is_damaged_is_named_to_whoever_asks_for_it() -> None:
    app = module.create(ProjectorSettings(dapr_grpc_port=1, dapr_http_port=1))

    @app.get("/damaged")
    def damaged() -> None:
        raise Undecodable("stream/default/task-7/event/1", ValueError("not JSON"))

    answer = TestClient(app).get("/damaged")
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:unavailable")
    assert "stream/default/task-7/event/1" in answer.json()["detail"]
    assert "send it again" not in answer.json()["detail"], "it would be in vain"
    assert int(answer.headers["retry-after"]) >= 60
