"""The subjects' keys: neither what users write nor a replacement of keys makes a page fail."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import orjson
import pytest
from structlog.testing import capture_logs

from annals.aggregates import CommandBus, CommandContext, CommandRequest
from annals.dapr import DaprSidecar, Write
from annals.events import StreamId
from annals.privacy import SubjectErased, SubjectKeys
from annals.privacy import subject_keys as keys_module
from annals.store import MemoryEventStore, StoreUnavailable, keys
from annals.testing.fake import FakeSidecar
from annals_command.commands import HANDLERS
from annals_command.domain.events import REGISTRY


class Secret:
    """The secret store's entry, which counts how often it is read."""

    def __init__(self) -> None:
        self.value = fresh()
        self.reads = 0

    async def read(self) -> str:
        self.reads += 1
        return self.value


def fresh() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
async def client() -> AsyncIterator[DaprSidecar]:
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        yield client
        await client.close()


def subject_keys(client: DaprSidecar, secret: Secret) -> SubjectKeys:
    return SubjectKeys(client, "eventstore", secret.read)


async def test_what_looks_like_a_token_is_shown_as_it_was_written(client: DaprSidecar) -> None:
    own = subject_keys(client, Secret())
    token = (await own.protect("default", "zoe", {"name": "Zoe"}))["name"]
    _, subject, field, ciphertext = token.split("/")
    written = [
        "annals-enc.v1/a||b/name/x",
        "annals-enc.v1/a/b/c",
        f"annals-enc.v1/a||b/name/{ciphertext}",
        f"annals-enc.v1/{subject}/{field}/{ciphertext}\n",
        f"annals-enc.v1/{subject}/{field}/{ciphertext}=",
        f"annals-enc.v1/{subject}/not a field/{ciphertext}",
        f"annals-enc.v1/{subject}/{field}/{ciphertext[:21]}",
        f"annals-enc.v1/{'x' * 129}/{field}/{ciphertext}",
        f"annals-enc.v1/{subject}/{field}/{'A' * 40}",
    ]
    assert await own.disclose("default", [*written, token]) == [*written, "Zoe"]


async def test_one_id_in_two_tenants_is_two_people(client: DaprSidecar) -> None:
    own, store = subject_keys(client, Secret()), MemoryEventStore()
    bus = CommandBus(store, REGISTRY, HANDLERS, source="test", protect=own.protect)

    async def name(tenant: str, asking: str) -> str | None:
        (event,) = [one async for one in store.read_stream(StreamId(tenant, "member-m"))]
        shown: str | None = (await own.disclose(asking, event.data))["name"]
        return shown

    for tenant, its in (("acme", "Zoe"), ("globex", "Max")):
        data = {"id": "m", "name": its, "capacity": 1}
        await bus.execute(CommandRequest("member.register", data, CommandContext(tenant)))
    assert await name("acme", "globex") not in ("Zoe", None), "nobody reads it with a key of their own"
    await own.shred("acme", "m")
    assert (await name("acme", "acme"), await name("globex", "globex")) == (None, "Max")


def sealed_as(sealed: Any) -> Callable[[bytes], bytes]:
    return lambda stored: orjson.dumps(orjson.loads(stored) | {"sealed": sealed})


@pytest.mark.parametrize(
    "damage",
    [
        sealed_as(base64.b64encode(os.urandom(92)).decode()),
        sealed_as("AAA"),
        sealed_as("AAAA"),
        sealed_as(None),
        lambda _: b"{}",
        lambda _: b"[]",
        lambda stored: stored[:15],
    ],
    ids=["altered", "no base64", "short", "null", "no fields", "no object", "cut off"],
)
async def test_a_key_that_was_damaged_takes_no_others_name_away_and_is_named_and_shredded(
    client: DaprSidecar, damage: Callable[[bytes], bytes]
) -> None:
    secret = Secret()
    own = subject_keys(client, secret)
    zoe = (await own.protect("default", "zoe", {"name": "Zoe"}))["name"]
    max_ = (await own.protect("default", "max", {"name": "Max"}))["name"]
    place = keys.subject("default", "max")
    stored = await client.get("eventstore", place)
    assert stored is not None
    await client.save("eventstore", Write(place, damage(stored.data)))

    reading = subject_keys(client, secret)
    with capture_logs() as logs:
        shown = [await reading.disclose("default", [zoe, max_]) for _ in range(3)]

    assert shown == [["Zoe", max_]] * 3
    assert [(log["log_level"], log["tenant"], log["subject"]) for log in logs] == [
        ("error", "default", "max")
    ]
    with pytest.raises(StoreUnavailable, match="default/max"):
        await subject_keys(client, secret).protect("default", "max", {"name": "Max"})
    await subject_keys(client, secret).shred("default", "max")
    assert await subject_keys(client, secret).disclose("default", [zoe, max_]) == ["Zoe", None]


async def test_a_wrapping_key_that_is_new_is_read_by_who_runs_already(
    client: DaprSidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keys_module, "_SECRET_SECONDS", 0.0)
    secret = Secret()
    running = subject_keys(client, secret)
    zoe = (await subject_keys(client, secret).protect("default", "zoe", {"name": "Zoe"}))["name"]
    assert await running.disclose("default", zoe) == "Zoe"

    secret.value = f"{fresh()},{secret.value}"
    restarted = subject_keys(client, secret)
    tokens = []
    for one, name in (("max", "Max"), ("ada", "Ada")):
        tokens.append((await restarted.protect("default", one, {"name": name}))["name"])
    reads = secret.reads

    assert await running.disclose("default", [zoe, *tokens]) == ["Zoe", "Max", "Ada"]
    assert secret.reads == reads + 1, "once for all"


async def test_the_secret_is_not_read_again_and_again_for_a_key_that_it_lacks(client: DaprSidecar) -> None:
    secret = Secret()
    running = subject_keys(client, secret)
    token = (await running.protect("default", "zoe", {"name": "Zoe"}))["name"]
    secret.value, reads = fresh(), secret.reads
    restarted = subject_keys(client, secret)
    for _ in range(5):
        assert await restarted.disclose("default", token) == token
    assert secret.reads == reads + 1


class Overtaken(DaprSidecar):
    """Lets something happen, once, between a read and the save after it."""

    before_save: Callable[[], Awaitable[None]] | None = None

    async def save(self, store: str, write: Write) -> None:
        if self.before_save is not None:
            meanwhile, self.before_save = self.before_save, None
            await meanwhile()
        await super().save(store, write)


async def test_a_key_that_is_made_while_its_subject_is_erased_is_shredded_too() -> None:
    secret = Secret()
    async with FakeSidecar() as sidecar:
        client, other = Overtaken(sidecar.grpc_port), DaprSidecar(sidecar.grpc_port)
        erasing, making = (SubjectKeys(one, "eventstore", secret.read) for one in (client, other))

        async def make() -> None:
            await making.protect("acme", "zoe", {"name": "Zoe"})

        client.before_save = make
        await erasing.shred("acme", "zoe")
        with pytest.raises(SubjectErased):
            await SubjectKeys(other, "eventstore", secret.read).protect("acme", "zoe", {"name": "Zoe"})
        await client.close()
        await other.close()


async def test_of_two_that_make_a_key_at_once_both_use_the_one_that_is_kept() -> None:
    secret = Secret()
    async with FakeSidecar() as sidecar:
        client, other = Overtaken(sidecar.grpc_port), DaprSidecar(sidecar.grpc_port)
        late, first = (SubjectKeys(one, "eventstore", secret.read) for one in (client, other))

        made: list[str] = []

        async def make() -> None:
            made.append((await first.protect("acme", "zoe", {"name": "Zoe"}))["name"])

        client.before_save = make
        made.append((await late.protect("acme", "zoe", {"name": "Zoe"}))["name"])
        assert await SubjectKeys(other, "eventstore", secret.read).disclose("acme", made) == ["Zoe", "Zoe"]
        await client.close()
        await other.close()


async def test_a_subject_that_is_erased_while_its_key_is_made_stays_erased() -> None:
    secret = Secret()
    async with FakeSidecar() as sidecar:
        client, other = Overtaken(sidecar.grpc_port), DaprSidecar(sidecar.grpc_port)
        making, erasing = (SubjectKeys(one, "eventstore", secret.read) for one in (client, other))

        async def erase() -> None:
            await erasing.shred("acme", "zoe")

        client.before_save = erase
        for _ in range(2):
            with pytest.raises(SubjectErased):
                await making.protect("acme", "zoe", {"name": "Zoe"})
        await client.close()
        await other.close()


async def test_what_is_personal_waits_while_its_key_cannot_be_had() -> None:
    secret = Secret()
    async with FakeSidecar() as sidecar:
        client = DaprSidecar(sidecar.grpc_port)
        own = subject_keys(client, secret)
        token = (await own.protect("acme", "zoe", {"name": "Zoe"}))["name"]
        sidecar.faults.fail("GetState", grpc.StatusCode.INTERNAL, times=2)
        sidecar.faults.fail("GetBulkState", grpc.StatusCode.INTERNAL)
        with pytest.raises(StoreUnavailable):
            await subject_keys(client, secret).protect("acme", "zoe", {"name": "Zoe"})
        with pytest.raises(StoreUnavailable):
            await subject_keys(client, secret).shred("acme", "zoe")
        with pytest.raises(StoreUnavailable):
            await subject_keys(client, secret).disclose("acme", token)
        secret.value = fresh()  # not the one that the subject's key is under
        with pytest.raises(StoreUnavailable, match="is not in the secret store"):
            await subject_keys(client, secret).protect("acme", "zoe", {"name": "Zoe"})
        await client.close()
