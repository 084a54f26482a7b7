"""Text that no database holds is refused before a database is asked."""

from __future__ import annotations

import pytest

from annals.web.problems import Problem
from annals.web.request_body import json_value
from unit.web.test_sidecar_only import client

__all__ = ["client"]


@pytest.mark.parametrize("path", ["/asked?user=%00", "/asked%00", "/asked?a=b&%00=c"])
def test_an_address_with_a_nul_is_refused(client, path: str) -> None:  # type: ignore[no-untyped-def]
    answer = client.get(path, headers={"dapr-api-token": "right"})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", [b'{"a":"\\u0000"}', b'{"\\u0000":1}', b'[[{"a":["x\\u0000"]}]]'])
def test_a_body_with_a_nul_is_refused(body: bytes) -> None:
    with pytest.raises(Problem):
        json_value(body)


def test_the_six_characters_of_an_escape_are_not_one() -> None:
    assert json_value(b'{"a":"\\\\u0000"}') == {"a": "\\u0000"}
