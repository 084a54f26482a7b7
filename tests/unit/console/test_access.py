"""Who may ask for what: every request that the edge passes on, and the lowest role it takes."""

from __future__ import annotations

import re

import httpx

from annals_console.access import RULES
from oidc_issuer import Issuer
from unit.console.conftest import Sidecar

# The lowest role comes first; each role may also do what the roles before it may.
MAY = {
    "viewer": (
        "GET command/store/lanes",
        "GET projector/queries/tasks",
        "GET projector/queries/tasks/{task}",
        "GET projector/queries/members",
        "GET projector/queries/members/{member}",
        "GET projector/queries/sagas",
        "GET projector/queries/sagas/{saga}",
        "GET projector/queries/streams/{stream}/events",
        "GET projector/queries/streams/{stream}/state",
        "GET projector/queries/events",
        "GET projector/queries/events/{event}",
        "GET projector/projections",
        "GET projector/projections/{read_model}/generations/{number}",
        "GET notification/stream",
        "GET notification/deliveries",
        "GET notification/reminders",
        "GET notification/recurrences",
        "GET notification/recurrences/{id}",
        "GET notification/inbox/{own_user}",
        "POST notification/inbox/{own_user}/read",
        "PUT notification/inbox/{own_user}/{notice}/read",
        "DELETE notification/inbox/{own_user}/{notice}/read",
        "GET notification/preferences/{own_user}",
        "PUT notification/preferences/{own_user}",
    ),
    "member": (
        "POST command/commands/task.create",
        "POST command/commands/task.update",
        "POST command/commands/task.assign",
        "POST command/commands/task.unassign",
        "POST command/commands/task.complete",
        "POST command/commands/task.reopen",
        "POST command/commands/task.delete",
        "POST command/commands/task.set_due_date",
        "POST saga-orchestrator/sagas/task-handover",
        "POST saga-orchestrator/sagas/{saga}/events/accept",
        "POST saga-orchestrator/sagas/{saga}/events/decline",
        "PUT notification/recurrences/{id}",
        "POST notification/recurrences/{id}/pause",
        "POST notification/recurrences/{id}/resume",
        "DELETE notification/recurrences/{id}",
    ),
    "operator": (
        "POST command/commands/member.register",
        "POST command/commands/member.set_capacity",
        "POST command/commands/member.leave",
        "POST command/commands/subject.erase",
        "DELETE notification/preferences/{user}",
        "GET projector/queries/audit",
        "GET projector/queries/audit/export",
        "POST saga-orchestrator/sagas/{saga}/events/{event}",
        "POST saga-orchestrator/sagas/{saga}/cancel",
        "POST saga-orchestrator/sagas/{saga}/suspend",
        "POST saga-orchestrator/sagas/{saga}/resume",
        "POST saga-orchestrator/sagas/{saga}/restart",
        "POST saga-orchestrator/sagas/{saga}/retry",
        "POST saga-orchestrator/sagas/{saga}/terminate",
        *(
            request.format(service=service)
            for service in ("command", "projector", "saga-orchestrator", "notification")
            for request in (
                "GET {service}/dead-letters",
                "GET {service}/dead-letters/groups",
                "POST {service}/dead-letters/groups/replay",
                "GET {service}/dead-letters/{{letter}}",
                "POST {service}/dead-letters/{{letter}}/dry-run",
                "POST {service}/dead-letters/{{letter}}/replay",
                "POST {service}/dead-letters/{{letter}}/discard",
                "PUT {service}/dead-letters/{{letter}}/data",
            )
        ),
    ),
    "suite-operator": (
        "GET projector/projections/{read_model}/generations/{number}/difference",
        "POST projector/projections/{read_model}/rebuild",
        "POST projector/projections/{read_model}/generations/{number}/pause",
        "POST projector/projections/{read_model}/generations/{number}/resume",
        "POST projector/projections/{read_model}/generations/{number}/switch",
        "POST projector/projections/{read_model}/generations/{number}/retire",
        "PUT projector/projections/{read_model}/generations/{number}/throttle",
        "DELETE projector/projections/{read_model}/generations/{number}",
    ),
}
RECURS = {"rule": "FREQ=DAILY", "command": {"type": "task.create", "data": {}}}


def test_every_rule_is_looked_at() -> None:
    rules = [f"{rule.method} {rule.service}/{rule.path}" for rule in RULES]
    assert sorted(rules) == sorted(request for requests in MAY.values() for request in requests)


async def test_a_role_may_what_it_may(
    console: str, issuer: Issuer, sidecar: Sidecar, http: httpx.AsyncClient
) -> None:
    sidecar.answers["GET recurrences/one"] = RECURS

    async def ask(role: str | None, request: str) -> int:
        token = f"Bearer {issuer.token(roles=[role])}" if role else ""
        method, path = request.replace("{own_user}", "ada").split()
        address = f"{console}/api/{re.sub('{.*?}', 'one', path)}"
        return (
            await http.request(method, address, headers={"authorization": token}, json=RECURS)
        ).status_code

    below = None
    for role, requests in MAY.items():
        sidecar.asked.clear()
        refused = {request: await ask(below, request) for request in requests}
        assert refused == dict.fromkeys(requests, 403 if below else 401)
        assert sidecar.asked == []
        taken = {request: await ask(role, request) for request in requests}
        assert not {401, 403, 404, 405} & set(taken.values()), taken
        below = role
