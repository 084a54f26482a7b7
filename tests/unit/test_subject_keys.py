"""The subjects' keys: what people write and how keys are replaced takes no page away."""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterator

import orjson
import pytest

from annals.dapr import DaprSidecar, Write
from annals.privacy import SubjectKeys
from annals.store import keys
from annals.testing.fake import FakeSidecar


class Secret:
    """The secret store's entry, and how often it was asked for."""

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


async def test_a_key_that_was_altered_takes_no_others_name_away(client: DaprSidecar) -> None:
    secret = Secret()
    own = subject_keys(client, secret)
    zoe = (await own.protect("default", "zoe", {"name": "Zoe"}))["name"]
    max_ = (await own.protect("default", "max", {"name": "Max"}))["name"]
    place = keys.subject("default", "max")
    stored = await client.get("eventstore", place)
    assert stored is not None
    altered = orjson.loads(stored.data) | {"sealed": base64.b64encode(os.urandom(92)).decode()}
    await client.save("eventstore", Write(place, orjson.dumps(altered)))

    shown = await subject_keys(client, secret).disclose("default", [zoe, max_])

    assert shown == ["Zoe", max_]
