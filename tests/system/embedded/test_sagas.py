"""Sagas as their users meet them: through the orchestrator's sidecar, on the whole suite."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from conftest import until
from suite.suite import Suite
from system.conftest import SAGAS


async def test_a_handover_is_accepted(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    answer = await sagas.answer(saga_id, member)
    assert answer.status_code == 202
    saga = await sagas.reaches(saga_id, "completed")
    assert (saga["type"], saga["business_key"]) == ("task-handover", task)
    assert [step["status"] for step in saga["steps"]] == ["completed"] * 8 + ["skipped"]
    await sagas.check(saga_id, task, member)


async def test_a_handover_is_declined(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    await sagas.answer(saga_id, member, "decline", {"because": "no time"})
    saga = await sagas.reaches(saga_id, "compensated")
    assert saga["reason"] == "await-answer: decline"
    await sagas.check(saga_id, task, member)


async def test_only_who_is_asked_may_answer(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    for event in ("accept", "decline"):
        for somebody in ({}, {"x_user_id": "mallory"}):
            refused = await sagas.post(f"{saga_id}/events/{event}", **somebody)
            assert (refused.status_code, refused.json()["type"]) == (403, "urn:annals:problem:forbidden")
            assert refused.json()["detail"] == f"only {member} may answer this"
    past = await sagas.client.command("task.accept", {"id": task, "assignee": member}, x_user_id="mallory")
    assert (past.status_code, past.json()["type"]) == (403, "urn:annals:problem:forbidden")
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed")
    [accepted] = [one for one in await sagas.facts(f"task-{task}") if one["event_type"] == "task.accepted"]
    assert accepted["user_id"] == member


async def test_an_answer_that_comes_before_it_is_asked_for_counts(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    assert (await sagas.answer(saga_id, member)).status_code == 202
    await sagas.reaches(saga_id, "completed")
    await sagas.check(saga_id, task, member)


async def test_nobody_answers_until_the_deadline(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover(deadline="PT2S")
    saga = await sagas.reaches(saga_id, "compensated")
    assert "nobody answered" in saga["reason"]
    await sagas.check(saga_id, task, member)
    late = await sagas.post(f"{saga_id}/events/accept")
    assert (late.status_code, late.json()["rule"]) == (422, "saga.ended")


async def test_an_assignee_without_room_or_unknown(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover(capacity=0)
    saga = await sagas.reaches(saga_id, "compensated")
    assert "all 0 places" in saga["reason"]
    assert saga["steps"][0]["attempts"] == 1, "a rule that refuses is not asked again"
    await sagas.check(saga_id, task, member)
    task = (await sagas.client.created())["id"]
    saga_id = await sagas.start("task-handover", {"task_id": task, "assignee": "nobody-of-that-name"})
    saga = await sagas.reaches(saga_id, "compensated")
    assert saga["steps"][0]["error"]["rule"] == "not_found"


@pytest.mark.parametrize("command", ["task.delete", "task.complete"])
async def test_a_task_that_is_gone_meanwhile_takes_its_handover_back(
    embedded: Suite, sagas: Any, command: str
) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    assert (await sagas.client.command(command, {"id": task})).status_code == 200
    saga = await sagas.reaches(saga_id, "compensated")
    assert saga["reason"] == {"task.delete": "task.deleted", "task.complete": "task.completed"}[command]
    kinds = [event["event_type"] for event in await sagas.facts(f"member-{member}")]
    assert kinds == ["member.registered", "member.reserved", "member.released"]


async def test_the_one_who_had_it_before_gets_their_place_back_and_so_does_the_last(
    embedded: Suite, sagas: Any
) -> None:
    first_id, task, first = await sagas.handover()
    await sagas.answer(first_id, first)
    await sagas.reaches(first_id, "completed")
    second = await sagas.member()
    second_id = await sagas.start("task-handover", {"task_id": task, "assignee": second})
    await sagas.answer(second_id, second)
    await sagas.reaches(second_id, "completed")
    kinds = [event["event_type"] for event in await sagas.facts(f"member-{first}")]
    assert kinds == ["member.registered", "member.reserved", "member.released"]
    await sagas.client.command("task.complete", {"id": task})

    async def released() -> bool:
        return len(await sagas.facts(f"member-{second}")) == 3

    await until(released)


@pytest.mark.parametrize(
    ("command", "data"),
    [("task.delete", {}), ("task.unassign", {}), ("task.assign", {"assignee": "no-member"})],
)
async def test_a_place_is_free_when_its_task_goes_away(
    embedded: Suite, sagas: Any, command: str, data: dict[str, str]
) -> None:
    nobodys = (await sagas.client.command("task.create", {"title": "x", "assignee": "ada"})).json()["id"]
    await sagas.client.command("task.complete", {"id": nobodys})
    saga_id, task, member = await sagas.handover()
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed")
    assert (await sagas.client.command(command, {"id": task} | data)).status_code == 200

    async def released() -> bool:
        kinds = [event["event_type"] for event in await sagas.facts(f"member-{member}")]
        return kinds[1:] == ["member.reserved", "member.released"]

    await until(released)
    *_, done = await sagas.facts(f"task-{nobodys}")
    none = await sagas.client.query(f"streams/saga-capacity-release-{done['event_id']}/events")
    assert none.status_code == 404, "nothing was reserved for it, and the store is followed in its order"


async def test_a_start_is_idempotent_by_key_by_id_and_by_business_key(embedded: Suite, sagas: Any) -> None:
    task, member = (await sagas.client.created())["id"], await sagas.member()
    given = {"task_id": task, "assignee": member, "deadline": "PT1H"}
    keyed = await asyncio.gather(
        *(sagas.start("task-handover", given, idempotency_key=f"k-{task}") for _ in range(5))
    )
    assert len(set(keyed)) == 1
    again = await sagas.post("task-handover", given)
    assert again.json() == {"id": keyed[0], "created": False}
    chosen = await sagas.post("task-handover?id=of-my-own", {**given, "task_id": task[::-1]})
    assert chosen.json() == {"id": "of-my-own", "created": True}
    repeated = await sagas.post("task-handover?id=of-my-own", {**given, "task_id": task[::-1]})
    assert repeated.json() == {"id": "of-my-own", "created": False}
    other = await sagas.post("task-handover", given | {"assignee": "somebody-else"})
    assert (other.status_code, other.json()["type"], other.json()["id"]) == (
        409,
        "urn:annals:problem:saga-runs",
        keyed[0],
    )
    taken = await sagas.post("capacity-release?id=of-my-own", {"member": "m", "task_id": "t"})
    assert (taken.status_code, taken.json()["rule"]) == (422, "saga.exists")
    for saga_id in (keyed[0], "of-my-own"):
        await sagas.post(f"{saga_id}/cancel")
        await sagas.reaches(saga_id, "compensated")
    fresh = await sagas.post("task-handover", given)
    assert fresh.json()["created"], "the business key is free again"


async def test_many_starts_for_one_business_key_at_once_start_one_saga(embedded: Suite, sagas: Any) -> None:
    task, member = (await sagas.client.created())["id"], await sagas.member()
    given = {"task_id": task, "assignee": member}
    ids = await asyncio.gather(*(sagas.start("task-handover", given) for _ in range(12)))
    assert len(set(ids)) == 1
    await sagas.waits(ids[0])
    assert len(await sagas.facts(f"member-{member}")) == 2


async def test_what_is_asked_wrongly_is_refused_and_changes_nothing(embedded: Suite, sagas: Any) -> None:
    assert (await sagas.post("no-such-saga", {})).json()["known"] == [
        "capacity-release",
        "member-offboarding",
        "task-handover",
    ]
    wrong = await sagas.post("task-handover", {"task_id": "t", "deadline": "soon", "colour": "red"})
    assert wrong.status_code == 400
    assert {error["field"] for error in wrong.json()["errors"]} == {"assignee", "deadline", "colour"}
    assert (await sagas.post("nowhere/events/accept")).status_code == 404
    saga_id, _, _ = await sagas.handover()
    unknown = await sagas.post(f"{saga_id}/events/shrug")
    assert (unknown.status_code, unknown.json()["rule"]) == (422, "saga.unknown_event")
    assert (await sagas.post(f"{saga_id}/retry")).json()["rule"] == "saga.nothing_left"
    assert (await sagas.post(f"{saga_id}/purge")).json()["rule"] == "saga.active"


async def test_a_tenant_does_not_see_anothers_sagas(embedded: Suite, sagas: Any) -> None:
    saga_id, _, _ = await sagas.handover()

    async def seen() -> bool:
        return bool((await sagas.client.query(f"sagas/{saga_id}")).status_code == 200)

    await until(seen)
    for path in (f"{saga_id}/events/accept", f"{saga_id}/cancel", f"{saga_id}/terminate"):
        assert (await sagas.post(path, x_tenant_id="others")).status_code == 404
    hidden = await sagas.client.query(f"sagas/{saga_id}", tenant="others")
    assert hidden.status_code == 404


async def test_two_tenants_sagas_of_one_id_do_not_touch(embedded: Suite, sagas: Any) -> None:
    name, others = "the-same-id", {"x_tenant_id": "others"}
    member = await sagas.member()
    await sagas.client.command("member.register", {"id": member, "name": member}, **others)
    for tenant in ({}, others):
        task = (await sagas.client.created(**tenant))["id"]
        given = {"task_id": task, "assignee": member}
        answer = await sagas.post(f"task-handover?id={name}", given, **tenant)
        assert answer.json() == {"id": name, "created": True}

    async def waits(tenant: str) -> bool:
        return bool((await sagas.get(name, tenant=tenant))["waits_for"])

    for tenant_name in ("default", "others"):
        await until(lambda tenant_name=tenant_name: waits(tenant_name))
    await sagas.post(f"{name}/cancel", **others)

    async def taken_back() -> bool:
        return bool((await sagas.get(name, tenant="others"))["status"] == "compensated")

    await until(taken_back)
    assert (await sagas.get(name))["status"] == "running"
    await sagas.answer(name, member)
    await sagas.reaches(name, "completed")
    assert (await sagas.get(name, tenant="others"))["status"] == "compensated"


async def test_cancel_takes_back_and_terminate_does_not(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    misspelt = await sagas.post(f"{saga_id}/cancel", {"raeson": "a mistake"})
    assert [one["field"] for one in misspelt.json()["errors"]] == ["raeson"]
    # as `curl -d` sends it
    form = {"content-type": "application/x-www-form-urlencoded", "x-user-id": "boss"}
    await sagas.client.http.post(
        f"{SAGAS}/{saga_id}/cancel", content=b'{"reason": "a mistake"}', headers=form
    )
    saga = await sagas.reaches(saga_id, "compensated")
    assert saga["reason"] == "a mistake"
    await sagas.check(saga_id, task, member)

    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    ended = (await sagas.post(f"{saga_id}/terminate", x_user_id="boss")).json()
    assert (ended["status"], ended["terminated"]) == ("failed", True)
    assert ended["left"] == ["reserve-capacity", "assign-task", "schedule-reminder", "notify"]
    assert len(await sagas.facts(f"member-{member}")) == 2, "nothing was taken back"
    await sagas.post(f"{saga_id}/retry", x_user_id="boss")
    await sagas.reaches(saga_id, "compensated")
    await sagas.check(saga_id, task, member)
    assert (await sagas.post(f"{saga_id}/purge")).status_code == 204
    assert (await sagas.get(saga_id))["status"] == "compensated", "its own history stays"


async def test_a_halted_saga_goes_on_only_when_it_is_told_to(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.waits(saga_id)
    for _ in range(2):  # a repeat does no harm
        assert (await sagas.post(f"{saga_id}/suspend")).json()["suspended"]
    await sagas.answer(saga_id, member)
    await asyncio.sleep(1)  # long enough for a saga that is not halted to go on
    assert (await sagas.get(saga_id))["waits_for"]
    for _ in range(2):
        assert not (await sagas.post(f"{saga_id}/resume")).json()["suspended"]
    await sagas.reaches(saga_id, "completed")
    await sagas.check(saga_id, task, member)


async def test_a_leaving_members_tasks_are_handed_over_and_the_saga_sums_up(
    embedded: Suite, sagas: Any
) -> None:
    leaving, eager, full = await sagas.member(), await sagas.member(), await sagas.member(capacity=0)
    tasks, position = [], ""
    for _ in range(4):
        task = (await sagas.client.created())["id"]
        assigned = await sagas.client.command("task.assign", {"id": task, "assignee": leaving})
        tasks.append(task)
        position = assigned.json()["position"]
    await sagas.client.shown("tasks", position)
    left = await sagas.client.command(
        "member.leave", {"id": leaving, "successors": [eager, full], "deadline": "PT1H"}
    )
    assert left.status_code == 200, left.text

    async def children() -> list[dict[str, Any]] | None:
        offboarding = await sagas.client.items("sagas", business_key=leaving)
        if not offboarding:
            return None
        found = await sagas.client.items("sagas", parent=offboarding[0]["id"])
        return found if len(found) == 4 else None

    found = await until(children)
    accepting = [child["id"] for child in found if child["input"]["assignee"] == eager]
    assert len(accepting) == 2
    for child in accepting:
        await sagas.answer(child, eager)
    saga = await sagas.reaches(found[0]["parent"], "completed")
    assert (saga["output"]["tasks"], saga["output"]["handed_over"]) == (4, 2)
    assert [one["status"] for one in saga["output"]["not_handed_over"]] == ["compensated"] * 2
    assert len(saga["output"]["still_assigned"]) == 2


async def offboarding(sagas: Any) -> tuple[str, str]:
    """Start a saga that runs another, and wait until the other waits for its answer; return both ids."""
    leaving, successor = await sagas.member(), await sagas.member()
    task = (await sagas.client.created())["id"]
    assigned = await sagas.client.command("task.assign", {"id": task, "assignee": leaving})
    await sagas.client.shown("tasks", assigned.json()["position"])
    parent = await sagas.start("member-offboarding", {"member": leaving, "successors": [successor]})

    async def child() -> str | None:
        found = await sagas.client.items("sagas", parent=parent)
        return found[0]["id"] if found else None

    running = await until(child)
    await sagas.waits(running)
    return parent, running


async def test_who_is_terminated_takes_the_sagas_they_run_along(embedded: Suite, sagas: Any) -> None:
    parent, running = await offboarding(sagas)
    await sagas.post(f"{parent}/terminate")
    ended = await sagas.reaches(running, "failed")
    assert ended["terminated"]
    assert ended["left"][:2] == ["reserve-capacity", "assign-task"]


async def test_who_is_cancelled_has_the_sagas_they_run_taken_back(embedded: Suite, sagas: Any) -> None:
    parent, running = await offboarding(sagas)
    await sagas.post(f"{parent}/cancel")
    await sagas.reaches(parent, "compensated")
    assert (await sagas.get(running))["status"] == "compensated"


async def test_the_read_model_has_every_step_and_try(embedded: Suite, sagas: Any) -> None:
    saga_id, task, member = await sagas.handover()
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed")

    async def there() -> dict[str, Any] | None:
        answer = await sagas.client.query(f"sagas/{saga_id}")
        return answer.json() if answer.status_code == 200 and answer.json()["status"] == "completed" else None

    row = await until(there)
    assert [step["name"] for step in row["steps"]][:2] == ["reserve-capacity", "assign-task"]
    assert row["steps"][0]["status"] == "completed"
    kinds = [moment["type"] for moment in row["timeline"]]
    assert kinds[0] == "saga.started"
    assert kinds[-1] == "saga.completed"
    [resumed] = [moment for moment in row["timeline"] if moment["type"] == "saga.resumed"]
    assert (resumed["event"], resumed["user"]) == ("accept", member)
    listed = await sagas.client.http.get(
        "http://127.0.0.1:3503/v1.0/invoke/saga-orchestrator/method/sagas",
        params={"business_key": task, "status": "completed"},
    )
    assert [saga["id"] for saga in listed.json()["items"]] == [saga_id]


async def test_saga_steps_and_commands_are_one_trace(embedded: Suite, sagas: Any) -> None:
    saga_id, _, member = await sagas.handover()
    await sagas.answer(saga_id, member)
    await sagas.reaches(saga_id, "completed")
    started = (await sagas.facts(f"saga-{saga_id}"))[0]
    trace_id = started["traceparent"].split("-")[1]
    wanted = {
        "saga step reserve-capacity",
        "command member.reserve",
        "project member.reserved",
        "saga step accept-task",
        "command task.accept",
    }

    async def whole() -> bool:
        answer = await sagas.client.http.get(f"http://127.0.0.1:9411/api/v2/trace/{trace_id}")
        names = {span["name"] for span in answer.json()} if answer.status_code == 200 else set()
        return wanted <= names

    await until(whole)
