"""One asyncio gRPC channel to the sidecar, with a deadline on every call but streams.

The Dapr SDK's own client is not used: its transaction call cannot ask for first-write, its bulk
publish takes no metadata per entry, and its constructor blocks the event loop. Only the SDK's
generated stubs are used.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
from dapr.proto import api_service_v1, api_v1, common_v1

from annals.dapr.errors import DaprError, SidecarUnavailable, translate

_FIRST_WRITE = common_v1.StateOptions(concurrency=common_v1.StateOptions.CONCURRENCY_FIRST_WRITE)


@dataclass(frozen=True, slots=True)
class StateValue:
    """The value of a key, and the etag with which to change it."""

    data: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Write:
    """One upsert. The store refuses it if `insert_only` and the key exists, or if `etag` is not the key's."""

    key: str
    value: bytes
    insert_only: bool = False
    etag: str | None = None
    ttl_seconds: int | None = None

    @classmethod
    def replacing(cls, key: str, value: bytes, there: StateValue | None) -> Write:
        """Return a write that replaces `there`, the value that was read, or inserts the key if that is None.

        The store refuses the write if the key has changed since.
        """
        return cls(key, value, insert_only=there is None, etag=there.etag if there else None)

    def item(self) -> common_v1.StateItem:
        """Return the upsert in the form of the sidecar's API."""
        return common_v1.StateItem(
            key=self.key,
            value=self.value,
            etag=None if self.etag is None else common_v1.Etag(value=self.etag),
            options=_FIRST_WRITE if self.insert_only or self.etag is not None else None,
            metadata=None if self.ttl_seconds is None else {"ttlInSeconds": str(self.ttl_seconds)},
        )


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a bulk publish; `entry_id` is unique in its bulk."""

    entry_id: str
    body: bytes
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class DaprSidecar:
    """The client of this process's sidecar. Create one on the running event loop, share it, and close it.

    `timeout` is the deadline of a call, in seconds.
    """

    def __init__(self, grpc_port: int, *, timeout: float = 5.0, api_token: str | None = None) -> None:
        self._timeout = timeout
        self._metadata = (("dapr-api-token", api_token),) if api_token else None
        self._channel = grpc.aio.insecure_channel(
            f"127.0.0.1:{grpc_port}",
            options=[
                ("grpc.max_receive_message_length", -1),
                ("grpc.max_send_message_length", -1),
                # A killed sidecar is back within a second, so the channel reconnects that often.
                ("grpc.initial_reconnect_backoff_ms", 100),
                ("grpc.max_reconnect_backoff_ms", 1000),
                # The sidecar is on this host, which a proxy from the environment could not reach.
                ("grpc.enable_http_proxy", 0),
            ],
        )
        self._stub = api_service_v1.DaprStub(self._channel)

    async def close(self) -> None:
        """Close the channel; calls under way are cancelled."""
        await self._channel.close()

    async def get(self, store: str, key: str) -> StateValue | None:
        """Read one key; None means for certain that the key does not exist."""
        answer = await self._call(self._stub.GetState, api_v1.GetStateRequest(store_name=store, key=key))
        return StateValue(answer.data, answer.etag) if answer.etag else None

    async def get_certain(self, store: str, keys: Sequence[str]) -> dict[str, StateValue]:
        """Read many keys; a key that is left out does not exist, because `get` looks for it again."""
        values = await self.get_bulk(store, keys)
        absent = [key for key in keys if key not in values]
        looked = await asyncio.gather(*(self.get(store, key) for key in absent))
        return values | {key: value for key, value in zip(absent, looked, strict=True) if value is not None}

    async def get_bulk(self, store: str, keys: Sequence[str]) -> dict[str, StateValue]:
        """Read many keys in one round trip. The values are right, but a key that is left out may exist.

        state.postgresql does not check whether its query broke off half-way, for example because the
        database died, and reports the keys that had not arrived as absent (components-contrib 1.18,
        state/postgresql/v2/postgresql.go, BulkGet). A decision that relies on an absence needs
        `get_certain`. If the answer is larger than the sidecar may send, the keys are read in halves.
        """
        if not keys:
            return {}
        request = api_v1.GetBulkStateRequest(store_name=store, keys=keys)
        try:
            answer = await self._call(self._stub.GetBulkState, request)
        except DaprError as error:
            if error.code is not grpc.StatusCode.RESOURCE_EXHAUSTED or len(keys) == 1:
                raise
            half = len(keys) // 2
            return await self.get_bulk(store, keys[:half]) | await self.get_bulk(store, keys[half:])
        values = {}
        for item in answer.items:
            if item.error:
                raise DaprError(grpc.StatusCode.INTERNAL, f"{item.key}: {item.error}")
            if item.etag:
                values[item.key] = StateValue(item.data, item.etag)
        return values

    async def transact(self, store: str, writes: Iterable[Write]) -> None:
        """Apply all writes in order, or none.

        Raises StateConflict if one was refused and StateTooLong if one does not fit; nothing was written
        then. After any other error the outcome is unknown.
        """
        request = api_v1.ExecuteStateTransactionRequest(
            storeName=store,
            operations=[
                api_v1.TransactionalStateOperation(operationType="upsert", request=write.item())
                for write in writes
            ],
        )
        await self._call(self._stub.ExecuteStateTransaction, request)

    async def save(self, store: str, write: Write) -> None:
        """Apply a single write. Raises StateConflict if it was refused."""
        await self._call(
            self._stub.SaveState, api_v1.SaveStateRequest(store_name=store, states=[write.item()])
        )

    async def publish(self, topic: str, messages: Sequence[Message]) -> frozenset[str]:
        """Publish a bulk, and return the ids of the entries that the broker did not take.

        If the component reports an error along with those entries, the sidecar passes on the error alone
        (dapr 1.18, pkg/api/grpc/grpc.go, bulkPublishEvent): after a DaprError it is unknown what was taken.
        Each topic is on a pub/sub component of the same name; see components/README.md.
        """
        request = api_v1.BulkPublishRequest(
            pubsub_name=topic,
            topic=topic,
            entries=[
                api_v1.BulkPublishRequestEntry(
                    entry_id=message.entry_id,
                    event=message.body,
                    content_type=message.content_type,
                    metadata=message.metadata,
                )
                for message in messages
            ],
        )
        answer = await self._call(self._stub.BulkPublishEvent, request)
        return frozenset(entry.entry_id for entry in answer.failedEntries)

    async def invoke_binding(
        self,
        name: str,
        operation: str,
        metadata: Mapping[str, str],
        data: bytes = b"",
        seconds: float | None = None,
    ) -> bytes:
        """Invoke an output binding and return its answer; `seconds` replaces the usual deadline."""
        request = api_v1.InvokeBindingRequest(name=name, operation=operation, data=data, metadata=metadata)
        answer = await self._call(self._stub.InvokeBinding, request, seconds=seconds)
        return bytes(answer.data)

    async def secret(self, store: str, name: str) -> str:
        """Return a secret, from a store that keeps the value under the secret's own name."""
        request = api_v1.GetSecretRequest(store_name=store, key=name)
        answer = await self._call(self._stub.GetSecret, request)
        if name not in answer.data:
            raise DaprError(grpc.StatusCode.NOT_FOUND, f"the secret {name} has no entry of that name")
        return str(answer.data[name])

    async def components(self) -> dict[str, str]:
        """Return the components that the sidecar has loaded: name to type."""
        answer = await self._call(self._stub.GetMetadata, api_v1.GetMetadataRequest())
        return {component.name: component.type for component in answer.registered_components}

    async def healthy(self) -> bool:
        """Return whether the sidecar answers at all."""
        try:
            await self.components()
        except DaprError:
            return False
        return True

    async def call(self, method: str, request: object, traceparent: str | None = None) -> Any:
        """Call a method of the sidecar's API by its name, as a part of the trace that `traceparent` names."""
        return await self._call(getattr(self._stub, method), request, traceparent)

    @asynccontextmanager
    async def stream(self, method: str, request: object) -> AsyncIterator[Callable[[], Awaitable[Any]]]:
        """Call a method that answers with a stream: `await read()` returns its next message.

        `read` raises DaprError, and SidecarUnavailable if the stream ends, because none is meant to.
        """
        call = getattr(self._stub, method)(request, metadata=self._metadata)

        async def read() -> Any:
            try:
                answer = await call.read()
            except grpc.aio.AioRpcError as error:
                raise translate(error) from error
            if answer is grpc.aio.EOF:
                raise SidecarUnavailable(grpc.StatusCode.UNAVAILABLE, f"{method} ended")
            return answer

        try:
            yield read
        finally:
            call.cancel()

    async def _call(
        self,
        method: Callable[..., Awaitable[Any]],
        request: object,
        traceparent: str | None = None,
        seconds: float | None = None,
    ) -> Any:
        metadata = self._metadata
        if traceparent is not None:
            metadata = (*(metadata or ()), ("traceparent", traceparent))
        try:
            return await method(request, timeout=seconds or self._timeout, metadata=metadata)
        except grpc.aio.AioRpcError as error:
            raise translate(error) from error
