"""The smaller parts of the sidecar's gRPC API: bindings, secrets, configuration, locks and metadata."""

from __future__ import annotations

import inspect
import itertools
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime, timedelta

import grpc
from dapr.proto import api_v1, common_v1

from annals.testing.fake.clock import Clock
from annals.testing.fake.errors import EMPTY, Refused
from annals.testing.fake.tasks import Signal

Binding = Callable[[str, bytes, Mapping[str, str]], bytes | Awaitable[bytes]]


class BindingsApi:
    """Output bindings: functions of an operation, data and metadata. A function raises to fail its call."""

    def __init__(self, bindings: Mapping[str, Binding]) -> None:
        self._bindings = bindings

    async def InvokeBinding(self, request: api_v1.InvokeBindingRequest) -> api_v1.InvokeBindingResponse:
        try:
            if request.name not in self._bindings:
                raise LookupError(f"couldn't find output binding {request.name}")
            found = self._bindings[request.name](request.operation, request.data, dict(request.metadata))
            answer = await found if inspect.isawaitable(found) else found
        except Exception as error:
            text = f"error invoking output binding {request.name}: {error}"
            raise Refused(grpc.StatusCode.INTERNAL, text, "ERR_INVOKE_OUTPUT_BINDING") from error
        return api_v1.InvokeBindingResponse(data=answer)


class SecretsApi:
    """Secret stores, each a mapping of names to values."""

    def __init__(self, stores: Mapping[str, Mapping[str, str]]) -> None:
        self._stores = stores

    async def GetSecret(self, request: api_v1.GetSecretRequest) -> api_v1.GetSecretResponse:
        store = self._store(request.store_name)
        if request.key not in store:
            text = (
                f"failed getting secret with key {request.key} from secret store {request.store_name}: "
                f"secret {request.key} not found"
            )
            raise Refused(grpc.StatusCode.INTERNAL, text, "ERR_SECRET_GET")
        return api_v1.GetSecretResponse(data={request.key: store[request.key]})

    async def GetBulkSecret(self, request: api_v1.GetBulkSecretRequest) -> api_v1.GetBulkSecretResponse:
        store = self._store(request.store_name)
        secrets = {name: api_v1.SecretResponse(secrets={name: value}) for name, value in store.items()}
        return api_v1.GetBulkSecretResponse(data=secrets)

    def _store(self, name: str) -> Mapping[str, str]:
        if not self._stores:
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, "secret store is not configured")
        if name not in self._stores:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"failed finding secret store with key {name}")
        return self._stores[name]


class FakeConfiguration:
    """A configuration store. Setting a key notifies its subscribers."""

    def __init__(self, **items: str) -> None:
        self._versions = itertools.count(1)
        self._items: dict[str, common_v1.ConfigurationItem] = {}
        self._changed = Signal()
        for key, value in items.items():
            self.set(key, value)

    def set(self, key: str, value: str) -> None:
        """Set a key."""
        self._items[key] = common_v1.ConfigurationItem(value=value, version=str(next(self._versions)))
        self._changed.notify()

    def get(self, keys: list[str]) -> dict[str, common_v1.ConfigurationItem]:
        """Return the items of `keys`, or all items if `keys` is empty."""
        return {key: item for key, item in self._items.items() if not keys or key in keys}

    async def changes(self, keys: list[str]) -> AsyncIterator[dict[str, common_v1.ConfigurationItem]]:
        """Yield the items of `keys` that are set from now on."""
        seen = {key: item.version for key, item in self.get(keys).items()}

        def news() -> dict[str, common_v1.ConfigurationItem]:
            return {key: item for key, item in self.get(keys).items() if seen.get(key) != item.version}

        while True:
            changed = await self._changed.until(news)
            seen |= {key: item.version for key, item in changed.items()}
            yield changed


class ConfigurationApi:
    """The configuration methods of the sidecar's gRPC API, under their names there."""

    def __init__(self, stores: Mapping[str, FakeConfiguration]) -> None:
        self._stores = stores
        self._subscribed: set[str] = set()
        self._changed = Signal()

    async def GetConfiguration(
        self, request: api_v1.GetConfigurationRequest
    ) -> api_v1.GetConfigurationResponse:
        return api_v1.GetConfigurationResponse(items=self._store(request.store_name).get(list(request.keys)))

    async def SubscribeConfiguration(
        self, request: api_v1.SubscribeConfigurationRequest
    ) -> AsyncIterator[api_v1.SubscribeConfigurationResponse]:
        changes = self._store(request.store_name).changes(list(request.keys))
        name = str(uuid.uuid4())
        self._subscribed.add(name)
        yield api_v1.SubscribeConfigurationResponse(id=name)
        async for items in changes:
            if name not in self._subscribed:
                return
            yield api_v1.SubscribeConfigurationResponse(id=name, items=items)

    async def UnsubscribeConfiguration(
        self, request: api_v1.UnsubscribeConfigurationRequest
    ) -> api_v1.UnsubscribeConfigurationResponse:
        if request.id not in self._subscribed:
            message = (
                f"failed to unsubscribe to configuration request {request.id}: subscription does not exist"
            )
            return api_v1.UnsubscribeConfigurationResponse(ok=False, message=message)
        self._subscribed.remove(request.id)
        return api_v1.UnsubscribeConfigurationResponse(ok=True)

    def _store(self, name: str) -> FakeConfiguration:
        if not self._stores:
            text = "configuration stores not configured"
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, text)
        if name not in self._stores:
            raise Refused(grpc.StatusCode.INVALID_ARGUMENT, f"configuration store {name} not found")
        return self._stores[name]


class FakeLocks:
    """The lock methods of the sidecar's gRPC API. Locks expire by the clock."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._held: dict[tuple[str, str], tuple[str, datetime]] = {}

    async def TryLockAlpha1(self, request: api_v1.TryLockRequest) -> api_v1.TryLockResponse:
        key, now = (request.store_name, request.resource_id), self._clock.now()
        if key in self._held and self._held[key][1] > now:
            return api_v1.TryLockResponse(success=False)
        self._held[key] = (request.lock_owner, now + timedelta(seconds=request.expiry_in_seconds))
        return api_v1.TryLockResponse(success=True)

    async def UnlockAlpha1(self, request: api_v1.UnlockRequest) -> api_v1.UnlockResponse:
        key = (request.store_name, request.resource_id)
        held = self._held.get(key)
        if held is None or held[1] <= self._clock.now():
            return api_v1.UnlockResponse(status=api_v1.UnlockResponse.LOCK_DOES_NOT_EXIST)
        if held[0] != request.lock_owner:
            return api_v1.UnlockResponse(status=api_v1.UnlockResponse.LOCK_BELONGS_TO_OTHERS)
        del self._held[key]
        return api_v1.UnlockResponse(status=api_v1.UnlockResponse.SUCCESS)


class MetadataApi:
    """The metadata methods: the sidecar's app id, version and components."""

    def __init__(self, app_id: str, components: Callable[[], Mapping[str, str]]) -> None:
        self._app_id = app_id
        self._components = components
        self._extended: dict[str, str] = {}

    async def GetMetadata(self, request: api_v1.GetMetadataRequest) -> api_v1.GetMetadataResponse:  # noqa: ARG002
        return api_v1.GetMetadataResponse(
            id=self._app_id,
            runtime_version="1.18.2",
            extended_metadata=self._extended,
            registered_components=[
                api_v1.RegisteredComponents(name=name, type=kind, version="v1")
                for name, kind in self._components().items()
            ],
        )

    async def SetMetadata(self, request: api_v1.SetMetadataRequest) -> object:
        self._extended[request.key] = request.value
        return EMPTY
