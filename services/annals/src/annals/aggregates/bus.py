"""The command bus: loads an aggregate, lets it decide, appends what it decided."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import random
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import orjson

from annals.aggregates.aggregate import Aggregate, Command, NotFound, RuleViolation, decided
from annals.aggregates.keyed_locks import KeyedLocks
from annals.aggregates.state_cache import StateCache
from annals.aggregates.stored_state import stored_state
from annals.events import (
    DomainEvent,
    EventData,
    EventRegistry,
    StreamId,
    new_id,
    require_aggregate_type,
    require_event_type,
)
from annals.privacy.personal import SubjectErased, personal_fields
from annals.store.protocol import (
    Append,
    Appended,
    Backpressure,
    ConflictError,
    DuplicateCommand,
    EventStore,
    Outcome,
    StoreUnavailable,
)

# The random pause after a conflict lasts at most this long for each conflict before it. Without a pause,
# equally fast instances would meet at the same version each time.
_PAUSE_SECONDS = 0.01
_LONGEST_PAUSE_SECONDS = 0.1
# Commands on one stream that may wait at a time, including the one that runs.
_COMMANDS_A_STREAM = 1_000
_KEYED_IDS = uuid.UUID("6f0f7a8e-2f3b-5d0e-9a51-1f6f0a3f9f57")

C = TypeVar("C", bound=Command)
A = TypeVar("A", bound=Aggregate)


class KeyReused(Exception):
    """An idempotency key was used before, for another command."""


@dataclass(frozen=True, slots=True)
class CommandContext:
    """Who sends a command, and in which session, correlation and trace."""

    tenant: str = "default"
    user: str | None = None
    session: str | None = None
    client: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None

    @property
    def trace_id(self) -> str | None:
        """The id of the command's trace, from `traceparent`."""
        return self.traceparent[3:35] if self.traceparent else None


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """A command as a caller sends it.

    `idempotency_key` is chosen by the caller: a repeat with the same key gets the first outcome. A command
    with an `expected_version` fails with ConflictError if its aggregate is at another version.
    """

    type: str
    data: Mapping[str, Any]
    context: CommandContext = field(default_factory=CommandContext)
    idempotency_key: str | None = None
    expected_version: int | None = None


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The outcome of a command. `created` says that the command created its aggregate."""

    aggregate_id: str
    appended: Appended
    created: bool


@dataclass(frozen=True, slots=True)
class Handler(Generic[C, A]):
    """One use case: the command, the aggregate that it is for, and the decision.

    `decide` returns at least one event; if nothing is to change, it raises a RuleViolation. `identify`
    returns the aggregate's id; for a command that creates, None lets the bus choose one. `sender` returns the
    only user who may send the command; without it, everybody may.
    """

    command: type[C]
    aggregate: type[A]
    identify: Callable[[C], str | None]
    decide: Callable[[A, C], EventData | Iterable[EventData]]
    creates: bool = False
    sender: Callable[[C], str] | None = None


Protect = Callable[[str, str, Mapping[str, str]], Awaitable[dict[str, str]]]
"""Encrypts fields of a tenant's subject; see `annals.privacy.SubjectKeys.protect`."""

Next = Callable[[CommandRequest], Awaitable[CommandResult]]
Middleware = Callable[[CommandRequest, Next], Awaitable[CommandResult]]


class UnknownCommand(Exception):
    """No handler has this command type; `known` lists the types that have one."""

    def __init__(self, command_type: str, known: list[str]) -> None:
        super().__init__(f"no command is called {command_type!r}")
        self.known = known


class CommandBus:
    """Executes commands; commands on the same stream run one at a time."""

    def __init__(
        self,
        store: EventStore,
        registry: EventRegistry,
        handlers: Iterable[Handler[Any, Any]],
        *,
        source: str,
        protect: Protect | None = None,
        middleware: Iterable[Middleware] = (),
        deadline_seconds: float = 10.0,
    ) -> None:
        """Raise ValueError if personal fields would not be encrypted, or if a type is invalid.

        `protect` encrypts the personal fields of commands. The types are those of commands and aggregates.
        One is invalid if no event can carry it, or if two handlers or two classes have it.
        `deadline_seconds` run from a command's arrival to its answer, including the wait for its turn.
        """
        self._store = store
        self._registry = registry
        self._handlers: dict[str, Handler[Any, Any]] = {}
        aggregates: dict[str, type[Aggregate]] = {}
        for one in handlers:
            require_event_type(one.command.command_type)
            require_aggregate_type(one.aggregate.aggregate_type)
            if self._handlers.setdefault(one.command.command_type, one) is not one:
                raise ValueError(f"two handlers are for {one.command.command_type}")
            if aggregates.setdefault(one.aggregate.aggregate_type, one.aggregate) is not one.aggregate:
                raise ValueError(f"two classes are the aggregate {one.aggregate.aggregate_type}")
        self._source = source
        self._protect = protect
        self._deadline_seconds = deadline_seconds
        self._personal = {kind: _personal(one.command) for kind, one in self._handlers.items()}
        for model in (*registry.classes.values(), *aggregates.values()):
            if fields := personal_fields(model):
                raise ValueError(
                    f"{model.__name__}.{fields[0]} is marked as personal: mark the command's field"
                )
        unprotected = sorted(kind for kind, fields in self._personal.items() if fields)
        if unprotected and protect is None:
            raise ValueError(f"{', '.join(unprotected)} have personal fields, and nothing protects them")
        self._locks: KeyedLocks[StreamId] = KeyedLocks()
        self._states = StateCache()
        execute: Next = self._execute
        for wrapper in reversed(list(middleware)):
            execute = _wrap(wrapper, execute)
        self._chain = execute

    @property
    def handlers(self) -> Mapping[str, Handler[Any, Any]]:
        """The handlers by command type."""
        return self._handlers

    async def execute(self, request: CommandRequest) -> CommandResult:
        """Execute a command.

        Raises UnknownCommand, pydantic's ValidationError, PermissionError, NotFound, RuleViolation,
        KeyReused and the errors of `EventStore.append`.
        """
        return await self._chain(request)

    async def _execute(self, request: CommandRequest) -> CommandResult:
        deadline = asyncio.get_running_loop().time() + self._deadline_seconds
        handler = self._handlers.get(request.type)
        if handler is None:
            raise UnknownCommand(request.type, sorted(self._handlers))
        command = handler.command.model_validate(request.data)
        if handler.sender is not None and request.context.user != (sender := handler.sender(command)):
            raise PermissionError(f"only {sender} may send this {request.type}")
        stream, aggregate_id, chosen = self._address(handler, command, request)
        try:
            async with asyncio.timeout_at(deadline) as limit:
                try:
                    command, request = await self._protected(command, request, aggregate_id)
                except SubjectErased as error:
                    if (first := await self._first_outcome(request, stream)) is None:
                        raise RuleViolation("subject.erased", str(error)) from error
                    return await self._repeated(handler, request, aggregate_id, first)
                if (users := self._locks.users(stream)) >= _COMMANDS_A_STREAM:
                    raise Backpressure(f"{users} commands wait for {stream}", retry_after=1)
                async with self._locks.hold(stream):
                    return await self._decide_and_append(
                        handler, command, request, stream, aggregate_id, limit, new=chosen
                    )
        except TimeoutError:
            if not limit.expired():
                raise
            raise StoreUnavailable("the command was not carried out in time") from None

    async def _protected(self, command: C, request: CommandRequest, subject: str) -> tuple[C, CommandRequest]:
        """Return the command and its request with personal fields encrypted. Raises SubjectErased."""
        plain = {name: getattr(command, name) for name in self._personal[request.type]}
        given = {name: text for name, text in plain.items() if text is not None}
        if self._protect is None or not given:
            return command, request
        tokens = await self._protect(request.context.tenant, subject, given)
        data = {**request.data, **tokens}
        return command.model_copy(update=tokens), dataclasses.replace(request, data=data)

    async def _first_outcome(self, request: CommandRequest, stream: StreamId) -> Appended | None:
        """Return the outcome of the same command from before its subject was erased, or None.

        Its personal fields cannot be encrypted again as they were, so there is no fingerprint to compare. A
        command with the same key, stream and type counts as the same.
        """
        if request.idempotency_key is None:
            return None
        _, outcome = await self._store.load(stream, request.idempotency_key, certain=True)
        if outcome is None or outcome.appended.stream != stream:
            return None
        version = outcome.appended.version
        said = self._store.read_stream(stream, from_version=version, to_version=version)
        return outcome.appended if [event.command_type async for event in said] == [request.type] else None

    def _address(
        self, handler: Handler[C, A], command: C, request: CommandRequest
    ) -> tuple[StreamId, str, bool]:
        """Return the command's stream and aggregate id, and whether that id was generated just now."""
        aggregate_id, chosen = handler.identify(command), False
        if aggregate_id is None:
            if request.idempotency_key is None:
                aggregate_id, chosen = new_id(), True
            else:
                # The same key names the same aggregate, so that a repeat meets the first outcome.
                scope = f"{request.context.tenant}/{request.type}/{request.idempotency_key}"
                aggregate_id = str(uuid.uuid5(_KEYED_IDS, scope))
        stream = StreamId.of(request.context.tenant, handler.aggregate.aggregate_type, aggregate_id)
        return stream, aggregate_id, chosen

    async def _decide_and_append(
        self,
        handler: Handler[C, A],
        command: C,
        request: CommandRequest,
        stream: StreamId,
        aggregate_id: str,
        limit: asyncio.Timeout,
        *,
        new: bool,
    ) -> CommandResult:
        fingerprint = _fingerprint(request) if request.idempotency_key is not None else ""
        certain = False
        conflicts = 0
        while True:
            version, state, outcome = await self._current(
                handler.aggregate, stream, request.idempotency_key, new=new, certain=certain
            )
            if outcome is not None:
                _require_same(outcome, fingerprint)
                return await self._repeated(handler, request, aggregate_id, outcome.appended)
            try:
                said = _decide(handler, state, command, stream, version, request.expected_version)
            except (ConflictError, NotFound, RuleViolation):
                if certain:
                    raise
                # Refuse only on a certain read: another instance may have changed the aggregate since,
                # and what the first read did not find may exist (docs/decisions/0005).
                self._states.remove(stream)
                certain = True
                continue
            for event in said:
                # A stream that is folded again would lack it, unlike the head that it is written with.
                if self._registry.classes.get(event.event_type) is not type(event):
                    raise TypeError(f"the event {type(event).__name__} is not registered")
                state = state.apply(event)
            append = Append(
                stream,
                self._envelopes(handler, request, aggregate_id, said),
                version,
                state.model_dump(mode="json"),
                handler.aggregate.state_schema,
                request.idempotency_key,
                fingerprint,
                deadline=limit.when(),
            )
            # From here on the store keeps the deadline: it alone knows whether the append was begun.
            limit.reschedule(None)
            try:
                appended = await self._store.append(append)
            except DuplicateCommand as duplicate:
                _require_same(duplicate.outcome, fingerprint)
                limit.reschedule(append.deadline)
                return await self._repeated(handler, request, aggregate_id, duplicate.outcome.appended)
            except ConflictError:
                self._states.remove(stream)
                certain = True
                if request.expected_version is not None:
                    raise
                limit.reschedule(append.deadline)
                pause = min(_PAUSE_SECONDS * conflicts, _LONGEST_PAUSE_SECONDS)
                await asyncio.sleep(random.uniform(0, pause))  # noqa: S311 - no secret
                conflicts += 1
                continue
            self._states.put(stream, appended.version, state, append.state)
            return CommandResult(aggregate_id, appended, created=version == 0)

    async def _repeated(
        self, handler: Handler[C, A], request: CommandRequest, aggregate_id: str, first: Appended
    ) -> CommandResult:
        """Return the first outcome of a command that is sent again, and whether it created the aggregate."""
        created = handler.creates
        if created and first.version > 1:
            began = self._store.read_stream(first.stream, to_version=1)
            created = [event.causation_id async for event in began] == [request.idempotency_key]
        return CommandResult(aggregate_id, first, created=created)

    async def _current(
        self, aggregate: type[A], stream: StreamId, key: str | None, *, new: bool, certain: bool
    ) -> tuple[int, A, Outcome | None]:
        """Return the version and state to decide on, and the outcome of an earlier command with this key."""
        if new:
            return 0, aggregate(), None
        if not certain and key is None and (cached := self._states.get(aggregate, stream)) is not None:
            return *cached, None
        head, outcome = await self._store.load(stream, key, certain=certain)
        if head is None:
            return 0, aggregate(), outcome
        state = await stored_state(self._store, self._registry, aggregate, stream, head)
        return head.version, state, outcome

    def _envelopes(
        self, handler: Handler[C, A], request: CommandRequest, aggregate_id: str, said: Iterable[EventData]
    ) -> tuple[DomainEvent, ...]:
        context = request.context
        causation_id = request.idempotency_key or new_id()
        return tuple(
            DomainEvent(
                event_type=event.event_type,
                event_version=event.event_version,
                source=self._source,
                tenant_id=context.tenant,
                user_id=context.user,
                session_id=context.session,
                client=context.client,
                correlation_id=context.correlation_id,
                causation_id=causation_id,
                traceparent=context.traceparent,
                aggregate_type=handler.aggregate.aggregate_type,
                aggregate_id=aggregate_id,
                command_type=request.type,
                data=event.model_dump(mode="json"),
            )
            for event in said
        )


def _wrap(middleware: Middleware, following: Next) -> Next:
    async def execute(request: CommandRequest) -> CommandResult:
        return await middleware(request, following)

    return execute


def _personal(command: type[Command]) -> tuple[str, ...]:
    fields = personal_fields(command)
    if "id" in fields:
        raise ValueError(f"{command.__name__}.id is marked as personal, and an id is stored as it is")
    return fields


def _decide(
    handler: Handler[C, A], state: A, command: C, stream: StreamId, version: int, expected: int | None
) -> tuple[EventData, ...]:
    if expected is not None and expected != version:
        raise ConflictError(stream, expected, version)
    if version == 0 and not handler.creates:
        raise NotFound(f"there is no {stream.name}")
    return decided(handler.decide(state, command))


def _fingerprint(request: CommandRequest) -> str:
    body = orjson.dumps([request.type, request.data], option=orjson.OPT_SORT_KEYS, default=str)
    return hashlib.sha256(body).hexdigest()


def _require_same(outcome: Outcome, fingerprint: str) -> None:
    if outcome.fingerprint != fingerprint:
        raise KeyReused("this idempotency key was used before, for another command")
