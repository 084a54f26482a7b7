"""What a user wants to be told, and how. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Annotated, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    ValidationError,
    WithJsonSchema,
)


class Channel(StrEnum):
    """Ways to reach somebody."""

    INBOX = "inbox"
    EMAIL = "email"
    WEBHOOK = "webhook"


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is no time zone; one is like Europe/Berlin") from None
    return name


def _by_the_users_clock(given: time) -> time:
    if given.tzinfo is not None:
        raise ValueError(f"{given} has an offset; a time is by the clock of `timezone`, like 22:00")
    return given


def _normal(text: str) -> str:
    """The normal form of an address: the host's name as name servers know it."""
    try:
        return str(HttpUrl(text))
    except ValueError:
        raise ValueError(f"{text!r} is no address; one is like https://example.org/hook") from None


def _url(text: str) -> str:
    _normal(text)
    return text


def _followed(events: str) -> str:
    if events.startswith("saga."):
        raise ValueError("an event that is none of a saga's: those are told on live streams alone")
    return events


Zone = Annotated[str, AfterValidator(_zone)]
# What JSON Schema calls a time has an offset always.
Clock = Annotated[
    time,
    AfterValidator(_by_the_users_clock),
    WithJsonSchema({"type": "string", "pattern": r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?$"}),
]
Address = Annotated[str, StringConstraints(pattern=r"^[^@\s,;<>]{1,64}@[^@\s,;<>]{1,255}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]{1,2000}$"), AfterValidator(_url)]
Secret = Annotated[str, StringConstraints(min_length=16, max_length=256)]
Pattern = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,199}\*?$")]
"""An event type, or the beginning of some and a star: `task.*`."""


Channels = Annotated[
    tuple[Channel, ...],
    Field(min_length=1),
    # Each once, however often it is named: statements answer with the preferences of many.
    AfterValidator(lambda named: tuple(dict.fromkeys(named))),
]


_ENCODED = "whsec_"
_KEY_BYTES = range(24, 65)


def signing_key(secret: str) -> bytes:
    """What a webhook is signed with. Raises ValueError.

    The Standard Webhooks specification has a secret with a prefix and its key in Base64; what has no
    such prefix is a key itself.
    """
    if not secret.startswith(_ENCODED):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_ENCODED), validate=True)
    except ValueError:
        key = b""
    if len(key) not in _KEY_BYTES:
        raise ValueError(f"behind {_ENCODED} come {_KEY_BYTES[0]} to {_KEY_BYTES[-1]} bytes in Base64")
    return key


def _signs(secret: str) -> str:
    signing_key(secret)
    return secret


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class QuietHours(_Model):
    """When not to be disturbed, by the clock of the user's time zone; it may span midnight."""

    start: Clock
    end: Clock

    def cover(self, clock: time) -> bool:
        """Whether it is quiet at that time of a day."""
        if self.start > self.end:
            return clock >= self.start or clock < self.end
        return self.start <= clock < self.end

    def until(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """When the quiet that it is now ends; None when it is not quiet."""
        local = now.astimezone(zone)
        clock = local.timetz().replace(tzinfo=None)
        if not self.cover(clock):
            return None
        day = local.date() + timedelta(days=1 if clock >= self.start > self.end else 0)
        # Where clocks are set back an end may come twice: the first one may be past, and the second is meant.
        ends = (datetime.combine(day, self.end.replace(fold=fold), zone) for fold in (0, 1))
        return max(end.astimezone(UTC) for end in ends)


class Webhook(_Model):
    """Where to post, and what to sign it with."""

    url: Url
    """As it is stored: what is logged of the webhook is looked up by it."""
    secret: Secret

    @property
    def address(self) -> str:
        """Where to post, in the normal form; what was stored before there was one is in another."""
        return _normal(self.url)


class Subscription(_Model):
    """Events to be told of. `mine`: only those that concern the user.

    What somebody else is told, as a reminder of theirs, nobody is told beside them.
    """

    events: Pattern
    channels: Channels = (Channel.INBOX,)
    mine: bool = True


_USUAL = ("notification.*", "reminder.*", "task.assigned")
_MOST = 100


class Preferences(_Model):
    """See the module. Without any, a user is told in the inbox of what concerns them most."""

    subscriptions: Annotated[tuple[Subscription, ...], Field(max_length=_MOST)] = tuple(
        Subscription(events=events) for events in _USUAL
    )
    timezone: Zone = "UTC"
    quiet_hours: QuietHours | None = None
    digest_at: Clock | None = None
    """When the day's e-mails come together, as one; without it each comes by itself."""
    email: Address | None = None
    webhook: Webhook | None = None

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Preferences:
        """What was stored of them, as far as it still holds: time zones go, and rules come."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = {place[0] for one in error.errors() if (place := one["loc"])}
            return cls.model_validate({name: value for name, value in data.items() if name not in wrong})

    def channels_for(self, kind: str, *, mine: bool) -> tuple[Channel, ...]:
        """The channels of an event that concerns the user, or does not."""
        wanted = {
            channel
            for subscription in self.subscriptions
            if (mine or not subscription.mine) and matches(subscription.events, kind)
            for channel in subscription.channels
        }
        reachable = {
            Channel.INBOX: True,
            Channel.EMAIL: self.email is not None,
            Channel.WEBHOOK: self.webhook is not None,
        }
        return tuple(channel for channel in Channel if channel in wanted and reachable[channel])

    def due(self, channel: Channel, now: datetime) -> datetime:
        """When something that comes up now is to go out over a channel."""
        at = now
        if channel is Channel.EMAIL and self.digest_at is not None:
            zone = ZoneInfo(self.timezone)
            local = now.astimezone(zone)
            at = datetime.combine(local.date(), self.digest_at, tzinfo=zone)
            if at <= now:
                at = datetime.combine(local.date() + timedelta(days=1), self.digest_at, tzinfo=zone)
        elif channel is not Channel.INBOX:
            at = self.undisturbed(now)
        return at

    def undisturbed(self, at: datetime) -> datetime:
        """A time, or when the quiet that it is then ends."""
        if self.quiet_hours is None:
            return at
        return self.quiet_hours.until(at, ZoneInfo(self.timezone)) or at

    def sendable(self, channel: Channel, at: datetime) -> datetime:
        """When what is due by a time may go out: in the quiet only a digest that is to come in it."""
        digest = self.digest_at if channel is Channel.EMAIL else None
        wanted = digest is not None and self.quiet_hours is not None and self.quiet_hours.cover(digest)
        return at if wanted else self.undisturbed(at)


class GivenWebhook(_Model):
    """A webhook as its user gives it."""

    url: Annotated[Url, AfterValidator(_normal)]
    secret: Annotated[Secret, AfterValidator(_signs)] | None = None
    """Nobody can read it back: without one, that which is kept for this address stays."""


class GivenSubscription(Subscription):
    """A subscription as its user gives it: what sagas record is told on live streams alone."""

    events: Annotated[Pattern, AfterValidator(_followed)]


class GivenPreferences(Preferences):
    """Preferences as their user gives them."""

    subscriptions: Annotated[tuple[GivenSubscription, ...], Field(max_length=_MOST)] = tuple(
        GivenSubscription(events=events) for events in _USUAL
    )
    webhook: GivenWebhook | None = None  # type: ignore[assignment]

    def kept(self, stored: Preferences) -> Preferences:
        """What is to be kept, when this was stored before. Raises ValidationError for a secret that lacks."""
        data = self.model_dump(exclude_none=True)
        given, before = self.webhook, stored.webhook
        if given is not None and before is not None and given.url == before.address:
            data["webhook"] = {"secret": before.secret} | data["webhook"]
        return Preferences.model_validate(data)


def matches(pattern: str, kind: str) -> bool:
    """Whether an event is of a type, or of one that begins so where a star ends it."""
    return kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern
