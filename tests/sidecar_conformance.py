"""The conformance suite of the fake sidecar. It runs on the real sidecar too.

A test module subclasses these classes and provides a class-scoped `sidecar` fixture.
"""

from __future__ import annotations

import asyncio
import base64
import json
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from dapr.proto import api_service_v1, api_v1, common_v1
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from conftest import until
from recording_app import RecordingApp, all_of

FIRST = common_v1.StateOptions(concurrency=common_v1.StateOptions.CONCURRENCY_FIRST_WRITE)
MISMATCH = "possible etag mismatch. error from state store"
TAKEN = {"postgresql": "no item was updated", "sqlite": MISMATCH}
RETRIES = 2
STORES = pytest.mark.parametrize("store", ["postgresql", "sqlite"])


@dataclass(frozen=True)
class Sidecar:
    """A sidecar of the app `app`, with a stub to call it and a function that sets a configuration value."""

    stub: api_service_v1.DaprStub
    app: RecordingApp
    configure: Callable[[str, str], Awaitable[None]]


@asynccontextmanager
async def connected(
    grpc_port: int, app: RecordingApp, configure: Callable[[str, str], Awaitable[None]]
) -> AsyncIterator[Sidecar]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        yield Sidecar(api_service_v1.DaprStub(channel), app, configure)


def new_key() -> str:
    return f"key-{uuid.uuid4()}"


def item(key: str, value: bytes = b"1", **fields: Any) -> common_v1.StateItem:
    if (etag := fields.pop("etag", None)) is not None:
        fields["etag"] = common_v1.Etag(value=etag)
    return common_v1.StateItem(key=key, value=value, **fields)


async def refused(call: Awaitable[object]) -> tuple[grpc.StatusCode, str, str]:
    """Return the status code, the details and the error reason of a refused call."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    reason = ""
    for name, value in caught.value.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info):
                    reason = info.reason
    return caught.value.code(), caught.value.details() or "", reason


class StateConformance:
    async def save(self, sidecar: Sidecar, store: str, *items: common_v1.StateItem) -> None:
        await sidecar.stub.SaveState(api_v1.SaveStateRequest(store_name=store, states=items))

    async def get(self, sidecar: Sidecar, store: str, key: str) -> api_v1.GetStateResponse:
        return await sidecar.stub.GetState(api_v1.GetStateRequest(store_name=store, key=key))

    def transact(self, sidecar: Sidecar, store: str, *operations: tuple[str, Any]) -> Awaitable[object]:
        made = [
            api_v1.TransactionalStateOperation(operationType=kind, request=one) for kind, one in operations
        ]
        request = api_v1.ExecuteStateTransactionRequest(storeName=store, operations=made)
        return sidecar.stub.ExecuteStateTransaction(request)

    @STORES
    async def test_a_value_comes_back_as_it_was_saved(self, sidecar: Sidecar, store: str) -> None:
        key, value = new_key(), b'{"big": 12345678901234567890, "float": 1.0}\x00\xff'
        assert (await self.get(sidecar, store, key)).etag == ""
        await self.save(sidecar, store, item(key, value))
        first = await self.get(sidecar, store, key)
        await self.save(sidecar, store, item(key, value))
        assert first.data == value
        assert first.etag
        assert first.etag != (await self.get(sidecar, store, key)).etag

    @STORES
    async def test_a_first_write_of_a_key_that_is_there(self, sidecar: Sidecar, store: str) -> None:
        key = new_key()
        await self.save(sidecar, store, item(key, options=FIRST))
        code = {"postgresql": grpc.StatusCode.INTERNAL, "sqlite": grpc.StatusCode.ABORTED}[store]
        assert await refused(self.save(sidecar, store, item(key, b"2", options=FIRST))) == (
            code,
            f"failed saving state in state store {store}: {TAKEN[store]}",
            "ERR_STATE_SAVE",
        )
        assert (await self.get(sidecar, store, key)).data == b"1"

    @STORES
    async def test_a_write_with_an_etag(self, sidecar: Sidecar, store: str) -> None:
        key = new_key()
        wrong = (
            grpc.StatusCode.ABORTED,
            f"failed saving state in state store {store}: {MISMATCH}",
            "ERR_STATE_SAVE",
        )
        other = str(uuid.uuid4())
        assert await refused(self.save(sidecar, store, item(key, etag=other))) == wrong
        await self.save(sidecar, store, item(key))
        etag = (await self.get(sidecar, store, key)).etag
        await self.save(sidecar, store, item(key, b"2", etag=etag))
        assert await refused(self.save(sidecar, store, item(key, b"3", etag=etag))) == wrong
        assert (await self.get(sidecar, store, key)).data == b"2"

    @STORES
    @pytest.mark.parametrize("etag", ["nonsense", "0" * 31 + "x"])
    async def test_an_etag_that_is_none(self, sidecar: Sidecar, store: str, etag: str) -> None:
        key = new_key()
        await self.save(sidecar, store, item(key))
        code, details, _ = await refused(self.save(sidecar, store, item(key, etag=etag)))
        assert code is grpc.StatusCode.ABORTED
        why = {8: ": invalid UUID length: 8", 32: ": invalid UUID format"}[len(etag)]
        assert details.endswith(MISMATCH + (why if store == "postgresql" else ""))

    @STORES
    async def test_deletes(self, sidecar: Sidecar, store: str) -> None:
        key = new_key()

        def delete(etag: str | None = None) -> Awaitable[object]:
            given = None if etag is None else common_v1.Etag(value=etag)
            return sidecar.stub.DeleteState(api_v1.DeleteStateRequest(store_name=store, key=key, etag=given))

        wrong = (
            grpc.StatusCode.ABORTED,
            f"failed deleting state with key {key}: {MISMATCH}",
            "ERR_STATE_DELETE",
        )
        await delete()
        assert await refused(delete(str(uuid.uuid4()))) == wrong
        await self.save(sidecar, store, item(key))
        assert await refused(delete(str(uuid.uuid4()))) == wrong
        await delete((await self.get(sidecar, store, key)).etag)
        assert (await self.get(sidecar, store, key)).etag == ""

    @STORES
    @pytest.mark.parametrize("how", ["first-write", "etag"])
    async def test_a_transaction_is_done_whole_or_not_at_all(
        self, sidecar: Sidecar, store: str, how: str
    ) -> None:
        key, other, gone = new_key(), new_key(), new_key()
        await self.save(sidecar, store, item(key), item(gone))
        against = (
            item(key, b"2", options=FIRST) if how == "first-write" else item(key, etag=str(uuid.uuid4()))
        )
        operations = [("upsert", item(other)), ("delete", item(gone)), ("upsert", against)]
        text = TAKEN[store] if how == "first-write" else MISMATCH
        assert await refused(self.transact(sidecar, store, *operations)) == (
            grpc.StatusCode.INTERNAL,
            f"error while executing state transaction: {text}",
            "ERR_STATE_TRANSACTION",
        )
        assert (await self.get(sidecar, store, other)).etag == ""
        assert (await self.get(sidecar, store, gone)).data == b"1"

        await self.transact(sidecar, store, *operations[:2], ("upsert", item(key, b"2")))
        assert (await self.get(sidecar, store, other)).data == b"1"
        assert (await self.get(sidecar, store, gone)).etag == ""
        assert (await self.get(sidecar, store, key)).data == b"2"

    @STORES
    async def test_a_key_is_not_inserted_twice_in_a_transaction(self, sidecar: Sidecar, store: str) -> None:
        key = new_key()
        twice = [("upsert", item(key, value, options=FIRST)) for value in (b"1", b"2")]
        _, details, _ = await refused(self.transact(sidecar, store, *twice))
        assert TAKEN[store] in details
        assert (await self.get(sidecar, store, key)).etag == ""

    @STORES
    async def test_many_keys_at_once(self, sidecar: Sidecar, store: str) -> None:
        keys = [new_key() for _ in range(20)]
        absent = new_key()
        await self.save(sidecar, store, *(item(key, key.encode()) for key in keys))
        answer = await sidecar.stub.GetBulkState(
            api_v1.GetBulkStateRequest(store_name=store, keys=[*keys, absent, keys[0]])
        )
        assert sorted(one.key for one in answer.items) == sorted([*keys, absent])
        values = {one.key: (one.data, bool(one.etag), one.error) for one in answer.items}
        assert values == {key: (key.encode(), True, "") for key in keys} | {absent: (b"", False, "")}

    @STORES
    async def test_what_one_item_refuses_the_others_do_not_mind(self, sidecar: Sidecar, store: str) -> None:
        taken, free = new_key(), new_key()
        await self.save(sidecar, store, item(taken))
        code, details, reason = await refused(
            self.save(sidecar, store, item(taken, options=FIRST), item(free, options=FIRST))
        )
        assert (code, reason) == (
            {"postgresql": grpc.StatusCode.INTERNAL, "sqlite": grpc.StatusCode.ABORTED}[store],
            "ERR_STATE_SAVE",
        )
        assert TAKEN[store] in details
        assert (await self.get(sidecar, store, free)).data == b"1"

    @STORES
    async def test_a_value_ends_with_its_time(self, sidecar: Sidecar, store: str) -> None:
        key, lasting = new_key(), new_key()
        await self.save(sidecar, store, item(lasting, metadata={"ttlInSeconds": "60"}))
        assert list((await self.get(sidecar, store, lasting)).metadata) == ["ttlExpireTime"]
        # SQLite counts whole seconds, so this value may expire at once.
        await self.save(sidecar, store, item(key, metadata={"ttlInSeconds": "1"}))

        async def gone() -> bool:
            return (await self.get(sidecar, store, key)).etag == ""

        await until(gone)
        await self.save(sidecar, store, item(key, b"2", options=FIRST))
        assert (await self.get(sidecar, store, key)).data == b"2"

    async def test_what_is_not_there_or_not_allowed(self, sidecar: Sidecar) -> None:
        assert await refused(self.get(sidecar, "nowhere", "key")) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "state store nowhere is not found",
            "DAPR_STATE_NOT_FOUND",
        )
        assert await refused(self.save(sidecar, "sqlite", item("a||b"))) == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "input key/keyPrefix 'a||b' can't contain '||'",
            "DAPR_STATE_ILLEGAL_KEY",
        )
        assert (await refused(self.save(sidecar, "sqlite", item(""))))[:2] == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "state key cannot be empty",
        )
        assert (await refused(self.transact(sidecar, "sqlite", ("merge", item("a")))))[:2] == (
            grpc.StatusCode.UNIMPLEMENTED,
            "operation type merge not supported",
        )

    async def test_redis_keeps_a_part_of_a_transaction(self, sidecar: Sidecar) -> None:
        taken, other = new_key(), new_key()
        await self.save(sidecar, "redis", item(taken))
        await self.transact(sidecar, "redis", ("upsert", item(taken, b"2", options=FIRST)))
        assert (await self.get(sidecar, "redis", taken)).data == b"2"
        await refused(
            self.transact(sidecar, "redis", ("upsert", item(other)), ("upsert", item(taken, etag="77")))
        )
        assert (await self.get(sidecar, "redis", other)).data == b"1"
        absent = new_key()
        await self.transact(sidecar, "redis", ("upsert", item(absent, etag="77")))
        assert (await self.get(sidecar, "redis", absent)).data == b"1"

    async def test_redis_knows_a_first_write_by_another(self, sidecar: Sidecar) -> None:
        by_first, by_last = new_key(), new_key()
        await self.save(sidecar, "redis", item(by_first, options=FIRST))
        await self.save(sidecar, "redis", item(by_last))
        code, details, _ = await refused(self.save(sidecar, "redis", item(by_first, b"2", options=FIRST)))
        assert code is grpc.StatusCode.INTERNAL
        assert details.startswith(f"failed saving state in state store redis: failed to set key {by_first}: ")
        await self.save(sidecar, "redis", item(by_last, b"2", options=FIRST))
        assert (await self.get(sidecar, "redis", by_last)).data == b"2"


def dead_letters(sidecar: Sidecar) -> list[str]:
    """Return the bodies of all dead letters so far."""
    return [base64.b64decode(call.json["data_base64"]).decode() for call in sidecar.app.to("/dead")]


class PubSubConformance:
    async def publish(
        self, sidecar: Sidecar, topic: str, data: bytes, kind: str = "application/json", **metadata: str
    ) -> None:
        named = {name.replace("_", "."): value for name, value in metadata.items()}
        await sidecar.stub.PublishEvent(
            api_v1.PublishEventRequest(
                pubsub_name="messages", topic=topic, data=data, data_content_type=kind, metadata=named
            )
        )

    def bulk(
        self, sidecar: Sidecar, topic: str, *entries: api_v1.BulkPublishRequestEntry
    ) -> Awaitable[api_v1.BulkPublishResponse]:
        request = api_v1.BulkPublishRequest(pubsub_name="messages", topic=topic, entries=entries)
        return sidecar.stub.BulkPublishEvent(request)

    @pytest.mark.parametrize(
        ("kind", "data", "expected"),
        [
            ("application/json", '{{"m":"{m}","big":12345678901234567890}}', "json"),
            ("text/plain", "hello {m}", "text"),
            ("", "hello {m}", "text"),
            ("application/octet-stream", "hello {m}", "base64"),
        ],
    )
    async def test_a_message_is_wrapped(self, sidecar: Sidecar, kind: str, data: str, expected: str) -> None:
        marker = uuid.uuid4().hex
        body = data.format(m=marker).encode()
        await self.publish(sidecar, "single", body, kind, cloudevent_subject=marker)
        [call] = await sidecar.app.called("/single", marker)
        event = call.json
        assert call.headers["content-type"] == "application/cloudevents+json"
        assert call.headers["pubsubname"] == "messages"
        said = {
            "specversion": "1.0",
            "type": "com.dapr.event.sent",
            "source": "app",
            "subject": marker,
            "topic": "single",
            "pubsubname": "messages",
            "datacontenttype": kind or "text/plain",
        }
        assert {name: event[name] for name in said} == said
        assert uuid.UUID(event["id"])
        assert event["traceparent"] == event["traceid"] == ""
        field = "data_base64" if expected == "base64" else "data"
        assert set(event) == {*said, "id", "time", "traceid", "traceparent", "tracestate", field}
        values = {
            "json": json.loads(body) if expected == "json" else None,
            "text": body.decode(),
            "base64": base64.b64encode(body).decode(),
        }
        assert event[field] == values[expected]

    async def test_the_trace_of_whoever_publishes_goes_on(self, sidecar: Sidecar) -> None:
        marker, trace = uuid.uuid4().hex, uuid.uuid4().hex
        request = api_v1.PublishEventRequest(
            pubsub_name="messages", topic="single", data=marker.encode(), data_content_type="text/plain"
        )
        metadata = (("traceparent", f"00-{trace}-00f067aa0ba902b7-01"),)
        await sidecar.stub.PublishEvent(request, metadata=metadata)
        [call] = await sidecar.app.called("/single", marker)
        assert call.json["traceparent"] == f"00-{trace}-00f067aa0ba902b7-01"

    async def test_the_envelope_can_be_said(self, sidecar: Sidecar) -> None:
        marker = uuid.uuid4().hex
        said = {"id": marker, "source": "elsewhere", "type": "thing.happened", "subject": "s-1"}
        await self.publish(
            sidecar, "single", b"{}", **{f"cloudevent_{name}": value for name, value in said.items()}
        )
        [call] = await sidecar.app.called("/single", marker)
        assert {name: call.json[name] for name in said} == said

    async def test_a_whole_cloudevent_stays_what_it_is(self, sidecar: Sidecar) -> None:
        marker = uuid.uuid4().hex
        event = {
            "id": marker,
            "source": "elsewhere",
            "type": "thing.happened",
            "specversion": "1.0",
            "tenantid": "acme",
            "data": {"big": 12345678901234567890},
            "time": "2030-01-01T00:00:00Z",
        }
        await self.publish(sidecar, "single", json.dumps(event).encode(), "application/cloudevents+json")
        [call] = await sidecar.app.called("/single", marker)
        assert {name: call.json[name] for name in event} == event
        assert set(call.json) - set(event) == {
            *("topic", "pubsubname", "traceid", "traceparent", "tracestate")
        }

    @pytest.mark.parametrize(
        "answer", [(200, ""), (204, ""), (200, "{}"), (200, '{"status":"SUCCESS"}'), (200, "fine")]
    )
    async def test_answers_that_are_a_success(self, sidecar: Sidecar, answer: tuple[int, str]) -> None:
        marker = uuid.uuid4().hex
        sidecar.app.answer("/single", answer)
        await self.publish(sidecar, "single", json.dumps(marker).encode())
        await sidecar.app.stays("/single", marker, 1)
        assert not any(marker in letter for letter in dead_letters(sidecar))

    @pytest.mark.parametrize(
        "answer", [(200, '{"status":"RETRY"}'), (200, '{"status":"WHAT"}'), (500, ""), (422, "no")]
    )
    async def test_a_failed_delivery_is_tried_again(self, sidecar: Sidecar, answer: tuple[int, str]) -> None:
        marker = uuid.uuid4().hex
        sidecar.app.answer("/single", answer)
        await self.publish(sidecar, "single", json.dumps(marker).encode())
        first, second = await sidecar.app.called("/single", marker, 2)
        assert first.body == second.body
        await sidecar.app.stays("/single", marker, 2)
        assert not any(marker in letter for letter in dead_letters(sidecar))

    @pytest.mark.parametrize(
        ("answer", "tries"),
        [
            ((200, '{"status":"RETRY"}'), RETRIES + 1),
            ((500, ""), RETRIES + 1),
            ((200, '{"status":"DROP"}'), 1),
            ((404, ""), 1),
        ],
    )
    async def test_what_becomes_a_dead_letter(
        self, sidecar: Sidecar, answer: tuple[int, str], tries: int
    ) -> None:
        marker = uuid.uuid4().hex
        sidecar.app.answer("/single", *[answer] * tries)
        await self.publish(sidecar, "single", b"{}", cloudevent_id=marker)
        calls = await sidecar.app.called("/single", marker, tries)

        async def dead() -> list[dict[str, Any]]:
            letters = [
                json.loads(base64.b64decode(call.json["data_base64"])) for call in sidecar.app.to("/dead")
            ]
            return [letter for letter in letters if letter.get("id") == marker]

        assert await until(dead) == [calls[0].json]
        await sidecar.app.stays("/single", marker, tries)

    async def test_what_is_no_json_is_a_dead_letter_unseen(self, sidecar: Sidecar) -> None:
        marker = uuid.uuid4().hex
        await self.publish(sidecar, "single", f"no json {marker}".encode(), "text/plain", rawPayload="true")

        async def dead() -> bool:
            letters = [
                base64.b64decode(call.json["data_base64"]).decode() for call in sidecar.app.to("/dead")
            ]
            return f"no json {marker}" in letters

        await until(dead)
        assert not sidecar.app.to("/single", marker)

    async def test_a_raw_payload(self, sidecar: Sidecar) -> None:
        body = uuid.uuid4().bytes
        encoded = base64.b64encode(body).decode()
        await self.publish(sidecar, "raw", body, "application/octet-stream", rawPayload="true")
        [call] = await sidecar.app.called("/raw", encoded)
        event = call.json
        assert uuid.UUID(event.pop("id"))
        for trace in ("traceid", "traceparent", "tracestate"):
            event.pop(trace, None)
        assert event == {
            "data_base64": encoded,
            "datacontenttype": "application/octet-stream",
            "pubsubname": "messages",
            "source": "Dapr",
            "specversion": "1.0",
            "topic": "raw",
            "type": "com.dapr.event.sent",
        }

    async def test_a_bulk_is_published_and_delivered(self, sidecar: Sidecar) -> None:
        marker = uuid.uuid4().hex
        entries = [
            api_v1.BulkPublishRequestEntry(
                entry_id=str(number),
                event=json.dumps({"m": marker, "n": number, "big": 2**60 + 1}).encode(),
                content_type="application/json",
                metadata={"cloudevent.id": f"{marker}-{number}"},
            )
            for number in range(5)
        ]
        answer = await self.bulk(sidecar, "bulk", *entries)
        assert not answer.failedEntries

        async def delivered() -> list[dict[str, Any]] | None:
            calls = sidecar.app.to("/bulk", marker)
            got = [entry for call in calls for entry in call.json["entries"] if marker in json.dumps(entry)]
            return got if len(got) == len(entries) else None

        got = await until(delivered)
        envelope = sidecar.app.to("/bulk", marker)[0].json
        assert set(envelope) == {"id", "entries", "metadata", "pubsubname", "topic", "type"}
        assert (envelope["type"], envelope["topic"], envelope["pubsubname"]) == (
            *("com.dapr.event.sent.bulk", "bulk", "messages"),
        )
        assert set(got[0]) == {"entryId", "event", "contentType", "metadata"}
        assert got[0]["contentType"] == "application/cloudevents+json"
        assert sorted(entry["event"]["id"] for entry in got) == [f"{marker}-{number}" for number in range(5)]
        # Bulk delivery turns numbers into floats, so large integers lose digits.
        assert {float(entry["event"]["data"]["big"]) for entry in got} == {float(2**60)}

    async def test_of_a_bulk_only_what_failed_is_tried_again(self, sidecar: Sidecar) -> None:
        marker = uuid.uuid4().hex

        def all_but_the_bad(envelope: Any) -> str:
            said = json.loads(all_of(envelope))
            bad = {e["entryId"] for e in envelope["entries"] if f"bad {marker}" in json.dumps(e["event"])}
            return json.dumps({"statuses": [s for s in said["statuses"] if s["entryId"] not in bad]})

        sidecar.app.answer("/bulk", *[all_but_the_bad] * (RETRIES + 1 + 1))
        kinds = ["good", "bad"]
        entries = [
            api_v1.BulkPublishRequestEntry(
                entry_id=kind, event=json.dumps(f"{kind} {marker}").encode(), content_type="application/json"
            )
            for kind in kinds
        ]
        await self.bulk(sidecar, "bulk", *entries)

        async def dead() -> list[str]:
            letters = [
                base64.b64decode(call.json["data_base64"]).decode() for call in sidecar.app.to("/dead")
            ]
            return [letter for letter in letters if marker in letter]

        [letter] = await until(dead)
        assert f"bad {marker}" in letter
        assert len(sidecar.app.to("/bulk", f"bad {marker}")) == RETRIES + 1
        await sidecar.app.stays("/bulk", f"good {marker}", 1)
        sidecar.app.answers["/bulk"].clear()

    async def test_a_bulk_that_is_not_found_is_gone(self, sidecar: Sidecar) -> None:
        marker = uuid.uuid4().hex
        sidecar.app.answer("/bulk", (404, ""))
        await self.publish(sidecar, "bulk", json.dumps(marker).encode())
        await sidecar.app.stays("/bulk", marker, 1)
        assert not any(marker in letter for letter in dead_letters(sidecar))

    async def test_what_is_not_there_or_not_allowed(self, sidecar: Sidecar) -> None:
        request = api_v1.PublishEventRequest(pubsub_name="nowhere", topic="t")
        assert await refused(sidecar.stub.PublishEvent(request)) == (
            *(grpc.StatusCode.INVALID_ARGUMENT, "pubsub nowhere is not found", "DAPR_PUBSUB_NOT_FOUND"),
        )
        request = api_v1.PublishEventRequest(pubsub_name="messages")
        assert (await refused(sidecar.stub.PublishEvent(request)))[:2] == (
            *(grpc.StatusCode.INVALID_ARGUMENT, "topic is empty in pubsub messages"),
        )
        entry = api_v1.BulkPublishRequestEntry(entry_id="1", event=b"{}", content_type="application/json")
        code, details, _ = await refused(self.bulk(sidecar, "bulk", entry, entry))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert details.endswith("entryId is duplicated or not present for entry")


class JobsConformance:
    def schedule(
        self, sidecar: Sidecar, name: str, overwrite: bool = False, **fields: Any
    ) -> Awaitable[object]:
        job = api_v1.Job(name=name, data=any_pb2.Any(value=b'{"n":12345678901234567890}'), **fields)
        return sidecar.stub.ScheduleJob(api_v1.ScheduleJobRequest(job=job, overwrite=overwrite))

    async def test_a_job_is_called_once_when_it_is_due(self, sidecar: Sidecar) -> None:
        name = f"job-{uuid.uuid4()}"
        await self.schedule(sidecar, name, due_time="3s")
        assert (await sidecar.stub.GetJob(api_v1.GetJobRequest(name=name))).job.due_time == "3s"
        [call] = await sidecar.app.called(f"/job/{name}")
        assert call.body == b'{"n":12345678901234567890}'
        assert call.headers["content-type"] == "application/json"

        async def gone() -> bool:
            try:
                await sidecar.stub.GetJob(api_v1.GetJobRequest(name=name))
            except grpc.aio.AioRpcError as error:
                return error.code() is grpc.StatusCode.INTERNAL and "job not found" in (error.details() or "")
            return False

        await until(gone)

    async def test_a_job_of_a_name_that_is_there(self, sidecar: Sidecar) -> None:
        name = f"job-{uuid.uuid4()}"
        await self.schedule(sidecar, name, due_time="1h")
        code, _, _ = await refused(self.schedule(sidecar, name, due_time="2h"))
        assert code is grpc.StatusCode.ALREADY_EXISTS
        await self.schedule(sidecar, name, overwrite=True, due_time="2h")
        assert (await sidecar.stub.GetJob(api_v1.GetJobRequest(name=name))).job.due_time == "2h"
        for _ in range(2):
            await sidecar.stub.DeleteJob(api_v1.DeleteJobRequest(name=name))
        code, details, _ = await refused(sidecar.stub.GetJob(api_v1.GetJobRequest(name=name)))
        assert code is grpc.StatusCode.INTERNAL
        assert "job not found" in details

    async def test_a_job_that_fails_is_called_again(self, sidecar: Sidecar) -> None:
        name = f"job-{uuid.uuid4()}"
        sidecar.app.answer(f"/job/{name}", (500, ""), (500, ""))
        constant = common_v1.JobFailurePolicyConstant(interval=duration_pb2.Duration(nanos=50_000_000))
        policy = common_v1.JobFailurePolicy(constant=constant)
        await self.schedule(sidecar, name, due_time="0s", failure_policy=policy)
        await sidecar.app.called(f"/job/{name}", times=3)

    @pytest.mark.parametrize("status", [404, 500])
    async def test_a_job_that_is_given_up(self, sidecar: Sidecar, status: int) -> None:
        name = f"job-{uuid.uuid4()}"
        sidecar.app.answer(f"/job/{name}", *[(status, "")] * 9)
        policy = None
        if status != 404:  # a 404 ends the job whatever its policy
            policy = common_v1.JobFailurePolicy(drop=common_v1.JobFailurePolicyDrop())
        await self.schedule(sidecar, name, due_time="0s", failure_policy=policy)
        await sidecar.app.called(f"/job/{name}")
        await asyncio.sleep(2)
        assert len(sidecar.app.to(f"/job/{name}")) == 1

    async def test_a_job_that_comes_again(self, sidecar: Sidecar) -> None:
        name = f"job-{uuid.uuid4()}"
        await self.schedule(sidecar, name, schedule="@every 1s", repeats=2)
        await sidecar.app.called(f"/job/{name}", times=2)
        await asyncio.sleep(2)
        assert len(sidecar.app.to(f"/job/{name}")) == 2

    @pytest.mark.parametrize(
        "fields", [{"schedule": "* * * * *"}, {"schedule": "nonsense"}, {"due_time": "1h", "ttl": "2h"}, {}]
    )
    async def test_a_job_that_never_could_be(self, sidecar: Sidecar, fields: dict[str, str]) -> None:
        await refused(self.schedule(sidecar, f"job-{uuid.uuid4()}", **fields))


class OthersConformance:
    async def test_secrets(self, sidecar: Sidecar) -> None:
        def secret(store: str, key: str) -> Awaitable[api_v1.GetSecretResponse]:
            return sidecar.stub.GetSecret(api_v1.GetSecretRequest(store_name=store, key=key))

        assert dict((await secret("secrets", "password")).data) == {"password": "open sesame"}
        assert (await refused(secret("secrets", "other")))[:2] == (
            grpc.StatusCode.INTERNAL,
            "failed getting secret with key other from secret store secrets: secret other not found",
        )
        assert (await refused(secret("nowhere", "other")))[:2] == (
            grpc.StatusCode.INVALID_ARGUMENT,
            "failed finding secret store with key nowhere",
        )
        answer = await sidecar.stub.GetBulkSecret(api_v1.GetBulkSecretRequest(store_name="secrets"))
        assert dict(answer.data["password"].secrets) == {"password": "open sesame"}

    async def test_configuration_and_its_changes(self, sidecar: Sidecar) -> None:
        key = f"key-{uuid.uuid4().hex}"
        await sidecar.configure(key, "1")
        request = api_v1.GetConfigurationRequest(store_name="configuration", keys=[key])
        answer = await sidecar.stub.GetConfiguration(request)
        assert {name: one.value for name, one in answer.items.items()} == {key: "1"}

        subscribe = api_v1.SubscribeConfigurationRequest(store_name="configuration", keys=[key])
        stream = sidecar.stub.SubscribeConfiguration(subscribe)
        first = await asyncio.wait_for(stream.read(), 30)
        assert first.id
        assert not first.items
        reading = asyncio.ensure_future(stream.read())

        async def told() -> bool:
            await sidecar.configure(key, "2")  # repeated until the subscription has reached the store
            await asyncio.sleep(0.2)
            return reading.done()

        await until(told)
        news = reading.result()
        assert news.id == first.id
        assert {name: one.value for name, one in news.items.items()} == {key: "2"}
        unsubscribe = api_v1.UnsubscribeConfigurationRequest(store_name="configuration", id=first.id)
        assert (await sidecar.stub.UnsubscribeConfiguration(unsubscribe)).ok
        stream.cancel()

        request = api_v1.GetConfigurationRequest(store_name="nowhere")
        assert (await refused(sidecar.stub.GetConfiguration(request)))[:2] == (
            *(grpc.StatusCode.INVALID_ARGUMENT, "configuration store nowhere not found"),
        )

    async def test_locks(self, sidecar: Sidecar) -> None:
        name = uuid.uuid4().hex

        async def lock(owner: str, seconds: int = 60) -> bool:
            request = api_v1.TryLockRequest(
                store_name="locks", resource_id=name, lock_owner=owner, expiry_in_seconds=seconds
            )
            return bool((await sidecar.stub.TryLockAlpha1(request)).success)

        async def unlock(owner: str) -> int:
            request = api_v1.UnlockRequest(store_name="locks", resource_id=name, lock_owner=owner)
            return int((await sidecar.stub.UnlockAlpha1(request)).status)

        status = api_v1.UnlockResponse
        assert await unlock("ada") == status.LOCK_DOES_NOT_EXIST
        assert await lock("ada")
        assert not await lock("bob")
        assert await unlock("bob") == status.LOCK_BELONGS_TO_OTHERS
        assert await unlock("ada") == status.SUCCESS
        assert await lock("bob", seconds=1)
        await until(lambda: lock("ada"))

    async def test_a_binding_that_is_not_there(self, sidecar: Sidecar) -> None:
        request = api_v1.InvokeBindingRequest(name="nowhere", operation="create")
        assert (await refused(sidecar.stub.InvokeBinding(request)))[:2] == (
            grpc.StatusCode.INTERNAL,
            "error invoking output binding nowhere: couldn't find output binding nowhere",
        )

    async def test_it_says_what_it_has(self, sidecar: Sidecar) -> None:
        answer = await sidecar.stub.GetMetadata(api_v1.GetMetadataRequest())
        assert answer.id == "app"
        kinds = {one.name: one.type for one in answer.registered_components}
        assert kinds["sqlite"] == "state.sqlite"
        assert kinds["secrets"] == "secretstores.local.file"
