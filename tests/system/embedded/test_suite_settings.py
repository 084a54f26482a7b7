"""Live settings of a running suite, as an operator changes them."""

from __future__ import annotations

from typing import Any

import asyncpg
import httpx

from conftest import until
from suite import infra, profiles
from suite.suite import Suite
from system.conftest import TASK, Client
from system.embedded.test_cli import annals

WHY = ("--reason", "to see")


async def settings(client: Client, app: str) -> dict[str, Any]:
    """Return a service's settings by name."""
    url = f"http://127.0.0.1:3501/v1.0/invoke/{app}/method/settings"
    answer = (await client.http.get(url)).json()
    assert answer["unreached"] is None, answer
    return {one["key"].partition(".")[2]: one for one in answer["items"]}


async def is_set(client: Client, app: str, name: str, value: object) -> None:
    """Wait until a service uses a value."""

    async def there() -> bool:
        return bool((await settings(client, app))[name]["value"] == value)

    await until(lambda: _answers(there), what=f"{app}'s {name} to be {value}")


async def test_commands_are_refused_while_it_is_read_only(embedded: Suite, client: Client) -> None:
    made = await client.created()
    pid = embedded.processes["command"].pid
    await annals("--user", "grace", "config", "set", "command.read_only", "true", *WHY)
    await is_set(client, "command", "read_only", True)
    answer = await client.command("task.create", TASK)
    assert (answer.status_code, answer.json()["type"]) == (503, "urn:annals:problem:read-only")
    assert answer.headers["retry-after"] == "30"
    base = "http://127.0.0.1:3501/v1.0/invoke/command/method"
    batch = await client.http.post(f"{base}/commands:batch", json=[{"type": "task.create", "data": TASK}])
    envelope = await client.http.post(f"{base}/commands", json={})
    assert (batch.status_code, envelope.status_code) == (503, 503)
    await client.shown(f"tasks/{made['id']}", made["position"])
    listed = (await annals("config", "list", "--json")).json["command"]["items"]
    (shown,) = (one for one in listed if one["set"])
    assert (shown["key"], shown["by"], shown["why"]) == ("command.read_only", "grace", "to see")
    checks = (await annals("doctor", "--json", code=None)).json["checks"]  # other tests leave failed sagas
    assert "command.read_only = true" in {one["detail"] for one in checks}
    await annals("config", "unset", "command.read_only", *WHY)
    await is_set(client, "command", "read_only", False)
    assert (await client.command("task.create", TASK)).status_code == 201
    assert embedded.processes["command"].pid == pid


async def test_a_restart_does_not_end_it(embedded: Suite, client: Client) -> None:
    await annals("config", "set", "command.read_only", "true", *WHY)
    await is_set(client, "command", "read_only", True)
    embedded.processes["command"].kill()
    answers = set()

    async def refused_again() -> bool:
        answer = await client.http.post("http://127.0.0.1:8001/commands/task.create", json=TASK)
        answers.add(answer.status_code)
        return bool(answer.json()["type"] == "urn:annals:problem:read-only")

    await embedded.processes["command"].wait_exit()
    await until(lambda: _answers(refused_again))
    assert answers == {503}
    await embedded.processes["command"].wait_ready()

    async def reached_by_its_sidecar() -> bool:
        return "read_only" in await settings(client, "command")

    await until(lambda: _answers(reached_by_its_sidecar))
    await annals("config", "unset", "command.read_only", *WHY)
    await is_set(client, "command", "read_only", False)


async def test_a_change_is_missed_by_no_service_whose_sidecar_is_killed(
    embedded: Suite, client: Client
) -> None:
    pid = embedded.processes["projector"].pid
    dsn = infra.Postgres(embedded.home / ".annals" / "embedded", profiles.POSTGRES_PORT).dsn
    connection = await asyncpg.connect(dsn)
    try:
        embedded.processes["projector-dapr"].kill()
        await connection.execute("SELECT annals_set('projector.visibility_timeout', '0.25', null, 'to see')")
        await embedded.processes["projector-dapr"].wait_ready()
        await until(lambda: _answers(lambda: _late(client, "after 0.25 s")), 60)
        await connection.execute("SELECT annals_set('projector.visibility_timeout', 'long', null, 'to see')")

        async def refused() -> bool:
            return bool((await settings(client, "projector"))["visibility_timeout"]["refused"])

        await until(lambda: _answers(refused))
        shown = (await settings(client, "projector"))["visibility_timeout"]
        assert (shown["value"], shown["default"]) == (0.25, 5.0)
        assert "valid number" in shown["refused"]
        assert "valid number" in (await annals("doctor", code=6)).out
    finally:
        await connection.execute("SELECT annals_set('projector.visibility_timeout', null, null, 'seen')")
        await connection.close()
    await is_set(client, "projector", "visibility_timeout", 5.0)
    assert embedded.processes["projector"].pid == pid


async def test_what_makes_no_sense_is_refused_at_once(embedded: Suite, client: Client) -> None:
    for key, value, code, says in (
        ("command.max_backlog", "many", 2, "valid integer"),
        ("saga_orchestrator.log_level", "loud", 2, "'warning'"),
        ("command.readonly", "true", 3, "read_only"),
        ("console.paused", "true", 2, "saga_orchestrator"),
    ):
        assert says in (await annals("config", "set", key, value, *WHY, code=code)).err
    for app in ("command", "projector", "saga-orchestrator", "notification"):
        assert not [one for one in (await settings(client, app)).values() if one["set"] or one["refused"]]


async def _answers(ask: Any) -> bool:
    """Return what `ask` finds; False if the service does not answer yet."""
    try:
        return bool(await ask())
    except (httpx.TransportError, ValueError, KeyError):
        return False


async def _late(client: Client, says: str) -> bool:
    answer = await client.query("tasks", position="0-999999999")
    return answer.status_code == 504 and says in answer.json()["detail"]
