"""What is parked for tenants other than the one asked for."""

from __future__ import annotations

import json

import httpx
import pytest

from annals_cli.sidecar import Exit
from unit.cli.conftest import Annals

ELSEWHERE = "3 are parked for all tenants: 2 of globex, 1 of acme; see them: "


def parked(request: httpx.Request) -> httpx.Response:
    """Serve the parked letters of two tenants, in each service."""
    own = [{"id": "L1", "tenant": "acme", "group": "a bug", "count": 1, "consumers": ["tasks"]}]
    items = {
        "dead-letters": own if request.headers["x-tenant-id"] == "acme" else [],
        "dead-letters/groups": own if request.headers["x-tenant-id"] == "acme" else [],
        "dead-letters/groups/tenants": [{"tenant": "globex", "parked": 2}, {"tenant": "acme", "parked": 1}],
    }
    found = items.get(request.url.path.partition("/method/")[2], [])
    return httpx.Response(200, json={"items": found, "unreached": None, "lag": 0})


@pytest.mark.parametrize("command", ["list", "groups"])
@pytest.mark.parametrize("tenant", ["acme", "default"])
def test_a_list_says_that_more_is_parked_of_other_tenants(annals: Annals, command: str, tenant: str) -> None:
    result = annals(parked, "--tenant", tenant, "dead-letters", command)
    assert ("L1" in result.stdout or "a bug" in result.stdout) == (tenant == "acme")
    assert result.stderr == f"{ELSEWHERE}annals --tenant TENANT dead-letters {command} --service projector\n"


def test_what_is_parked_of_other_tenants_is_looked_for_where_this_was(annals: Annals) -> None:
    given = ("--sidecar", "http://other:3501", "--tenant", "default", "--user", "ada")
    again = (
        "annals --sidecar http://other:3501 --tenant TENANT --user ada dead-letters list --service command"
    )
    result = annals(parked, *given, "dead-letters", "list", "--service", "command")
    assert result.stderr == f"{ELSEWHERE}{again}\n"
    checks = json.loads(annals(parked, "--json", *given, "doctor").stdout)["checks"]
    assert f"See {again}." in [one["mend"] for one in checks]


def test_a_list_that_has_all_says_nothing_more(annals: Annals) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        of_tenants = request.url.path.endswith("/tenants")
        item = {"tenant": "acme", "parked": 1} if of_tenants else {"id": "L1"}
        return httpx.Response(200, json={"items": [item]})

    assert annals(answer, "--tenant", "acme", "dead-letters", "list").stderr == ""


def test_the_doctor_finds_what_is_parked_of_any_tenant(annals: Annals) -> None:
    result = annals(parked, "--json", "doctor")
    assert result.exit_code == Exit.FOUND_WRONG
    checks = {one["check"]: one for one in json.loads(result.stdout)["checks"]}
    letters = checks["dead letters of notification"]
    assert (letters["ok"], letters["detail"]) == (False, "3 parked: 2 of globex, 1 of acme")
    assert letters["mend"] == "See annals --tenant TENANT dead-letters list --service notification."


@pytest.mark.parametrize("command", [("dead-letters", "list"), ("doctor",)])
def test_a_service_of_the_release_before_tells_of_the_tenant_that_asks(
    annals: Annals, command: tuple[str, ...]
) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("/tenants"):
            return httpx.Response(404, json={"detail": "Not Found"})
        return parked(request)

    result = annals(answer, "--json", "--tenant", "acme", *command)
    checks = {one["check"]: one["detail"] for one in json.loads(result.stdout).get("checks", ())}
    assert checks.get("dead letters of notification", "1 parked: 1 of acme") == "1 parked: 1 of acme"
    people = annals(answer, "--tenant", "acme", "dead-letters", "list")
    assert (people.exit_code, people.stderr) == (Exit.DONE, "")
