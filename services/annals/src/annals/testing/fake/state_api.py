"""The state API: GetState, GetBulkState, SaveState, DeleteState, ExecuteStateTransaction."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, timedelta

import grpc
from dapr.proto import api_v1, common_v1

from annals.testing.fake.clock import Clock
from annals.testing.fake.errors import EMPTY, Refused
from annals.testing.fake.state import FakeState, Operation, StateRefused, Stored

_SEPARATOR = "||"


class StateApi:
    """The state methods of the sidecar's gRPC API, under their names there."""

    def __init__(self, app_id: str, stores: Mapping[str, FakeState], clock: Clock) -> None:
        self._app_id = app_id
        self._stores = stores
        self._clock = clock

    async def GetState(self, request: api_v1.GetStateRequest) -> api_v1.GetStateResponse:
        store = self._store(request.store_name)
        stored = store.get(self._key(store, request.key), self._clock.now())
        if stored is None:
            return api_v1.GetStateResponse()
        return api_v1.GetStateResponse(data=stored.data, etag=stored.etag, metadata=_metadata(stored))

    async def GetBulkState(self, request: api_v1.GetBulkStateRequest) -> api_v1.GetBulkStateResponse:
        store = self._store(request.store_name)
        keys = {self._key(store, key): key for key in request.keys}
        items = []
        for key, stored in store.get_bulk(keys, self._clock.now()):
            if stored is None:
                items.append(api_v1.BulkStateItem(key=keys[key]))
            else:
                item = api_v1.BulkStateItem(key=keys[key], data=stored.data, etag=stored.etag)
                item.metadata.update(_metadata(stored))
                items.append(item)
        return api_v1.GetBulkStateResponse(items=items)

    async def SaveState(self, request: api_v1.SaveStateRequest) -> object:
        store = self._store(request.store_name)
        if any(not item.key for item in request.states):
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, "state key cannot be empty", "ERR_STATE_SAVE")
        refused: list[StateRefused] = []
        for item in request.states:  # one by one: a refused write does not stop the others
            try:
                store.write(self._operation(store, item), self._clock.now())
            except StateRefused as error:
                refused.append(error)
        if refused:
            raise _refused(
                f"failed saving state in state store {request.store_name}: "
                + "\n".join(str(error) for error in refused),
                refused[0],
                "ERR_STATE_SAVE",
            )
        return EMPTY

    async def DeleteState(self, request: api_v1.DeleteStateRequest) -> object:
        store = self._store(request.store_name)
        etag = request.etag.value if request.HasField("etag") else None
        operation = Operation(self._key(store, request.key), None, etag or None)
        try:
            store.write(operation, self._clock.now())
        except StateRefused as error:
            text = f"failed deleting state with key {request.key}: {error}"
            raise _refused(text, error, "ERR_STATE_DELETE") from error
        return EMPTY

    async def DeleteBulkState(self, request: api_v1.DeleteBulkStateRequest) -> object:
        store = self._store(request.store_name)
        for item in request.states:
            etag = item.etag.value if item.HasField("etag") else None
            try:
                store.write(Operation(self._key(store, item.key), None, etag or None), self._clock.now())
            except StateRefused as error:
                text = f"failed deleting state in state store {request.store_name}: {error}"
                raise _refused(text, error, "ERR_STATE_BULK_DELETE") from error
        return EMPTY

    async def ExecuteStateTransaction(self, request: api_v1.ExecuteStateTransactionRequest) -> object:
        store = self._store(request.storeName)
        operations = []
        for operation in request.operations:
            if operation.operationType not in ("upsert", "delete"):
                raise Refused(
                    grpc.StatusCode.UNIMPLEMENTED,
                    f"operation type {operation.operationType} not supported",
                    "ERR_STATE_NOT_SUPPORTED_OPERATION",
                )
            deletes = operation.operationType == "delete"
            operations.append(self._operation(store, operation.request, deletes=deletes))
        try:
            store.transact(operations, self._clock.now())
        except StateRefused as error:
            # A transaction answers INTERNAL whatever went wrong (see annals/dapr/errors.py).
            text = f"error while executing state transaction: {error}"
            raise Refused(grpc.StatusCode.INTERNAL, text, "ERR_STATE_TRANSACTION") from error
        return EMPTY

    def _store(self, name: str) -> FakeState:
        if not self._stores:
            raise Refused(
                grpc.StatusCode.FAILED_PRECONDITION,
                f"state store {name} is not configured",
                "DAPR_STATE_NOT_CONFIGURED",
            )
        if name not in self._stores:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT, f"state store {name} is not found", "DAPR_STATE_NOT_FOUND"
            )
        return self._stores[name]

    def _key(self, store: FakeState, key: str) -> str:
        if _SEPARATOR in key:
            raise Refused(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"input key/keyPrefix '{key}' can't contain '{_SEPARATOR}'",
                "DAPR_STATE_ILLEGAL_KEY",
            )
        return f"{self._app_id}{_SEPARATOR}{key}" if store.prefix_app_ids else key

    def _operation(self, store: FakeState, item: common_v1.StateItem, *, deletes: bool = False) -> Operation:
        ttl = item.metadata.get("ttlInSeconds")
        return Operation(
            self._key(store, item.key),
            None if deletes else item.value,
            (item.etag.value or None) if item.HasField("etag") else None,
            item.options.concurrency == common_v1.StateOptions.CONCURRENCY_FIRST_WRITE,
            timedelta(seconds=int(ttl)) if ttl and int(ttl) > 0 else None,
        )


def _refused(text: str, error: StateRefused, reason: str) -> Refused:
    code = grpc.StatusCode.ABORTED if error.mismatch else grpc.StatusCode.INTERNAL
    return Refused(code, text, reason)


def _metadata(stored: Stored) -> dict[str, str]:
    if stored.expires is None:
        return {}
    return {"ttlExpireTime": stored.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")}
