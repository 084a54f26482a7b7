"""The right to erasure: an erased subject is gone from every table, every topic and every rebuild."""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg
import orjson

from conftest import until
from suite import infra, profiles
from suite.suite import Suite
from system.conftest import in_topics

NOTIFICATION = "http://127.0.0.1:3504/v1.0/invoke/notification/method"

_TABLES = """
SELECT table_schema || '.' || table_name FROM information_schema.tables
WHERE table_schema NOT IN ('pg_catalog', 'information_schema') AND table_type = 'BASE TABLE'"""


async def _plain_in_tables(suite: Suite, text: str) -> list[str]:
    """Return the tables that contain a text, including in bytes."""
    dsn = infra.Postgres(suite.home / ".annals" / "embedded", profiles.POSTGRES_PORT).dsn
    connection = await asyncpg.connect(dsn)
    try:
        found = []
        for (table,) in await connection.fetch(_TABLES):
            name = ".".join(f'"{part}"' for part in table.split("."))
            # The text form of a row shows bytea in hexadecimal.
            columns = "t::text LIKE $1 OR t::text LIKE $2"
            query = f"SELECT count(*) FROM {name} t WHERE {columns}"
            if await connection.fetchval(query, f"%{text}%", f"%{text.encode().hex()}%"):
                found.append(table)
        return found
    finally:
        await connection.close()


async def test_an_erased_subject_is_unreadable_everywhere(embedded: Suite, client: Any) -> None:
    member, name = f"m-{uuid.uuid4()}", f"Zerlina{uuid.uuid4().hex}"
    data = {"id": member, "name": name, "capacity": 3}
    registered = await client.command("member.register", data, idempotency_key=f"k-{member}")
    assert registered.status_code == 201, registered.text
    again = await client.command("member.register", data, idempotency_key=f"k-{member}")
    assert again.json() == registered.json(), "a repeat is recognised though it was encrypted"
    at = registered.json()["position"]
    assert (await client.shown(f"members/{member}", at))["name"] == name
    assert (await client.query(f"streams/member-{member}/state")).json()["name"] == name
    preferences = {"email": f"{name}@example.org"}
    put = await client.http.put(
        f"{NOTIFICATION}/preferences/{member}", json=preferences, headers={"x-user-id": member}
    )
    assert put.status_code < 300, put.text
    assert await _plain_in_tables(embedded, name) == ["notifications.preferences"]

    async def published() -> bool:
        return await in_topics(embedded, member) > 0

    await until(published)
    assert await in_topics(embedded, name) == 0

    erased = await client.command("subject.erase", {"id": member, "reason": "asked to be forgotten"})
    assert erased.status_code == 201, erased.text

    async def gone() -> bool:
        items = await client.items(f"streams/member-{member}/events")
        named = not items or items[0]["data"]["name"] is not None
        return not named and not await _plain_in_tables(embedded, name)

    await until(gone, seconds=20)
    assert (await client.query(f"members/{member}")).json()["name"] is None
    assert (await client.query(f"members/{member}")).json()["capacity"] == 3, "what is not personal stays"
    await client.command("member.set_capacity", {"id": member, "capacity": 4})
    refused = await client.command("member.register", data)
    assert (refused.status_code, refused.json()["rule"]) == (422, "subject.erased")

    put = await client.http.put(
        f"{NOTIFICATION}/preferences/{member}", json=preferences, headers={"x-user-id": member}
    )
    assert put.status_code < 300, "nothing keeps who was erased from coming back"
    twice = await client.command("subject.erase", {"id": member, "reason": "again"})
    assert twice.status_code == 200, twice.text
    await until(gone, seconds=20)

    number = (await client.operate("POST", "projections/members/rebuild", json={})).json()["number"]

    async def caught_up() -> bool:
        found = await client.operate("GET", f"projections/members/generations/{number}")
        return found.status_code == 200 and bool(found.json()["caught_up"])

    await until(caught_up, seconds=20)
    switched = await client.operate("POST", f"projections/members/generations/{number}/switch")
    assert switched.status_code == 200, switched.text
    assert (await client.query(f"members/{member}")).json()["name"] is None
    assert await _plain_in_tables(embedded, name) == []
    verified = (await client.operate("GET", "audit/verification")).text.splitlines()[-1]
    assert orjson.loads(verified)["result"]["ok"], "the chain covers tokens, which stay"
    trail = (await client.query("audit", stream=f"subject-{member}")).json()["items"]
    assert [entry["type"] for entry in trail] == ["subject.erased"] * 2
