"""The rules of docs/write-your-own-saga.md, as printed there."""

from __future__ import annotations

import re

import httpx
import pytest

from annals_console import access, gateway
from oidc_issuer import Issuer
from suite.paths import ROOT
from unit.console.conftest import Sidecar

PAGE = (ROOT / "docs" / "write-your-own-saga.md").read_text()
[PRINTED] = re.findall(r"```python\n(_REVIEW = .*?)```", PAGE, re.DOTALL)
ASKED = ("sagas/task-review", "sagas/first-review/events/approve", "sagas/first-review/events/reject")


@pytest.fixture
def pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Insert the page's rules where the page says."""
    module = dict(vars(access))
    exec(PRINTED, module)
    rules = list(access.RULES)
    [at] = [number for number, rule in enumerate(rules) if rule.summary == "Raise any event"]
    rules[at:at] = module["_REVIEW"]
    monkeypatch.setattr(gateway, "RULES", tuple(rules))


@pytest.mark.usefixtures("pasted")
async def test_a_member_may_start_and_answer_a_saga_that_is_listed(
    console: str, issuer: Issuer, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    token = {"authorization": f"Bearer {issuer.token(roles=['member'])}"}
    for path in ASKED:
        answer = await http.post(f"{console}/api/saga-orchestrator/{path}", headers=token)
        assert answer.status_code == 200, path
    assert [asked["path"] for asked in sidecar.asked] == list(ASKED)
