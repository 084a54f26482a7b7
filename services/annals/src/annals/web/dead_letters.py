"""The `/dead-letters` routes: operators inspect, edit, replay and discard a service's dead letters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Annotated, Any, get_type_hints

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, create_model

from annals.dapr import DaprError
from annals.deadletters import (
    DeadLetter,
    DeadLetters,
    DeadLettersDamaged,
    DeadLettersUnknown,
    Kind,
    MovedOn,
    TooMuchEdited,
    UnknownLetter,
)
from annals.deadletters.letter import Detail
from annals.events import Data, RecordedEvent
from annals.store import EventReader, StoreError, Undecodable
from annals.web.answers import Answer, json_answer
from annals.web.operations import Operations
from annals.web.parameters import REFUSE_UNKNOWN_PARAMETERS
from annals.web.problems import Problem, damaged, malformed, unavailable
from annals.web.request_body import Reason, Text
from annals.web.request_context import id_of, tenant_of

_WAITING_SHOWN = 20  # events of a parked sequence, if the request sets no limit

Tenant = Annotated[str, Depends(tenant_of)]
DryRun = Callable[[DeadLetter], Awaitable[dict[str, Any]]]


class Why(BaseModel):
    """An operator's reason, kept in the dead letter's history."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class ReasonAtVersion(Why):
    """The reason, and the `version` that the operator saw: the request fails if another event waits now."""

    version: Annotated[int, Field(ge=0)] | None = None


class Edit(ReasonAtVersion):
    """The replacement: `data` for an event, `raw` for a message that could not be read."""

    data: Data | None = None
    raw: Text | None = None


class Group(Why):
    """The group of dead letters to replay, and the reason."""

    group: Text


class Parked(Answer):
    """A tenant's dead letters, oldest first."""

    items: list[DeadLetter]


class LetterGroup(Answer):
    """Dead letters that failed in the same way."""

    group: str
    count: int
    consumers: list[str]
    first: str
    """When the first of them was parked; `last` is when the latest was."""
    last: str


class LetterGroups(Answer):
    """Groups of dead letters, the largest first."""

    items: list[LetterGroup]


class ParkedOf(Answer):
    """How many dead letters a tenant has."""

    tenant: str
    parked: int


class ParkedOfAll(Answer):
    """The tenants that have dead letters, the one with the most first."""

    items: list[ParkedOf]


_WHOLE: dict[str, Any] = {
    name: (hint, ...) for name, hint in (get_type_hints(DeadLetter) | get_type_hints(Detail)).items()
} | {"waiting": (int, ...), "events": (list[RecordedEvent], ...)}

WholeLetter = create_model(
    "WholeLetter",
    __base__=Answer,
    __doc__="A dead letter with its stack, raw text, history, number of waiting events, and first of them.",
    **_WHOLE,
)


class Released(Answer):
    """How many dead letters are being handled again."""

    released: int


class Edited(Answer):
    """The id of the edited dead letter."""

    edited: str


class Discarded(Answer):
    """The id of the discarded dead letter."""

    discarded: str


def routes(
    dead_letters: DeadLetters, store: EventReader, dry_run: DryRun, operations: Operations
) -> APIRouter:
    """Return the `/dead-letters` router. Changes are recorded in the letter's history and the audit trail."""
    router = APIRouter(prefix="/dead-letters", tags=["dead letters"])

    async def find(tenant: str, letter_id: str) -> DeadLetter:
        with _problems():
            return await dead_letters.known(tenant, letter_id)

    async def seen(tenant: str, letter_id: str, body: ReasonAtVersion) -> DeadLetter:
        letter = await find(tenant, letter_id)
        return letter if body.version is None else replace(letter, version=body.version)

    async def parked(tenant: str) -> list[DeadLetter]:
        with _problems():
            await dead_letters.refresh()
        return dead_letters.parked(tenant)

    @router.get("", summary="List the dead letters, oldest first", dependencies=[REFUSE_UNKNOWN_PARAMETERS])
    async def listing(tenant: Tenant, consumer: str | None = None, group: str | None = None) -> Parked:
        found = await parked(tenant)
        return Parked(
            items=[one for one in found if consumer in (None, one.consumer) and group in (None, one.group)]
        )

    @router.get(
        "/groups",
        summary="List the groups of dead letters that failed in the same way",
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def groups(tenant: Tenant) -> LetterGroups:
        by_group: dict[str, list[DeadLetter]] = defaultdict(list)
        for one in await parked(tenant):
            by_group[one.group].append(one)
        items = [
            LetterGroup(
                group=group,
                count=len(ones),
                consumers=sorted({one.consumer for one in ones}),
                first=min(one.parked_at for one in ones),
                last=max(one.parked_at for one in ones),
            )
            for group, ones in by_group.items()
        ]
        return LetterGroups(items=sorted(items, key=lambda item: -item.count))

    # The edge does not pass this route on, because it covers all tenants.
    @router.get(
        "/groups/tenants",
        summary="Count the dead letters of each tenant",
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def tenants() -> ParkedOfAll:
        with _problems():
            await dead_letters.refresh()
        found = dead_letters.tenants().items()
        return ParkedOfAll(items=[ParkedOf(tenant=tenant, parked=parked) for tenant, parked in found])

    @router.get(
        "/{letter_id}",
        summary="Get a dead letter with its stack, raw text, waiting events and history",
        response_model=WholeLetter,
        dependencies=[REFUSE_UNKNOWN_PARAMETERS],
    )
    async def one(
        tenant: Tenant, letter_id: str, limit: Annotated[int, Query(ge=1, le=200)] = _WAITING_SHOWN
    ) -> Response:
        with _problems():
            letter, detail = await dead_letters.get(tenant, letter_id)
            waiting: list[RecordedEvent] = []
            count = 0
            if letter.kind is Kind.EVENT:
                head, _ = await store.load(letter.sequence)
                count = max(0, (head.version if head else 0) - letter.version + 1)
                found = store.read_stream(letter.sequence, from_version=letter.version, limit=limit)
                waiting = [event async for event in found]
        events = [event.model_dump(mode="json") for event in waiting]
        return json_answer(asdict(letter) | asdict(detail) | {"waiting": count, "events": events})

    @router.post("/{letter_id}/dry-run", summary="Try a replay without changing anything")
    async def try_out(tenant: Tenant, letter_id: str) -> dict[str, Any]:
        letter = await find(tenant, letter_id)
        with _problems():
            return await dry_run(letter)

    # Declared before the replay of one letter, whose path would match `groups` as an id.
    @router.post("/groups/replay", status_code=202, summary="Replay a group of dead letters")
    async def replay_group(request: Request, tenant: Tenant, body: Group) -> Released:
        found = [one for one in await parked(tenant) if one.group == body.group]
        if not found:
            raise Problem(404, "not-found", f"nothing is parked in the group {body.group!r}")
        await operations.requested(request, "replay-group", body.group[:500], body.reason)
        with _problems():
            return Released(
                released=await dead_letters.release(found, id_of(request, "x-user-id"), body.reason)
            )

    @router.post(
        "/{letter_id}/replay",
        status_code=202,
        summary="Replay a dead letter and the events that wait behind it",
    )
    async def replay(request: Request, tenant: Tenant, letter_id: str, body: Why) -> Released:
        letter = await find(tenant, letter_id)
        await operations.requested(request, "replay", _target(letter), body.reason)
        with _problems():
            if not await dead_letters.release([letter], id_of(request, "x-user-id"), body.reason):
                raise UnknownLetter(f"{letter.id} is not parked any more")
        return Released(released=1)

    @router.put(
        "/{letter_id}/data", summary="Change the data that the consumer sees; the event stays as it is"
    )
    async def edit(request: Request, tenant: Tenant, letter_id: str, body: Edit) -> Edited:
        letter = await seen(tenant, letter_id, body)
        who = id_of(request, "x-user-id")
        if letter.kind is Kind.RAW and body.raw is None:
            raise malformed("raw", "the text to read instead")
        if letter.kind is not Kind.RAW and body.data is None:
            raise malformed("data", "the data for the consumer to see instead")
        await operations.requested(request, "edit", _target(letter), body.reason)
        with _problems():
            if body.raw is not None and letter.kind is Kind.RAW:
                await dead_letters.rewrite(letter, body.raw, who, body.reason)
            else:
                await dead_letters.correct(letter, body.data, who, body.reason)
        return Edited(edited=letter.id)

    @router.post(
        "/{letter_id}/discard", summary="Skip the event that failed; the events that wait behind it go on"
    )
    async def discard(request: Request, tenant: Tenant, letter_id: str, body: ReasonAtVersion) -> Discarded:
        letter = await seen(tenant, letter_id, body)
        who = id_of(request, "x-user-id")
        await operations.requested(request, "discard", _target(letter), body.reason)
        with _problems():
            if letter.kind is Kind.RAW:
                await dead_letters.discard(letter, who, body.reason)
            else:
                await dead_letters.correct(letter, None, who, body.reason)
                await dead_letters.release([letter], who, body.reason)
        return Discarded(discarded=letter.id)

    return router


def _target(letter: DeadLetter) -> str:
    return f"{letter.consumer}: {letter.stream or 'a message'} v{letter.version} ({letter.id})"


async def not_tried_out(_letter: DeadLetter) -> dict[str, Any]:
    """Return the dry run of a consumer whose handling is only side effects: there is nothing to preview."""
    return {"would": "handle", "note": "handling it has only side effects, so there is no row to show"}


@contextmanager
def _problems() -> Iterator[None]:
    try:
        yield
    except UnknownLetter as error:
        raise Problem(404, "not-found", str(error)) from error
    except MovedOn as error:
        raise Problem(409, "conflict", str(error), expected=error.expected, actual=error.actual) from error
    except TooMuchEdited as error:
        raise Problem(413, "too-large", str(error)) from error
    except (DeadLettersDamaged, Undecodable) as error:
        raise damaged(error) from error
    except (DaprError, DeadLettersUnknown, StoreError) as error:
        raise unavailable(f"the dead letters cannot be read or changed now: {error}") from error
