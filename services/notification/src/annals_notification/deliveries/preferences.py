"""A user's preferences: which events to be told of, over which channels, and when. Pure."""

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
    """A channel over which a user is notified."""

    INBOX = "inbox"
    EMAIL = "email"
    WEBHOOK = "webhook"


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError(f"{name!r} is not a time zone such as Europe/Berlin") from None
    return name


def _by_the_users_clock(given: time) -> time:
    if given.tzinfo is not None:
        raise ValueError(f"{given} has an offset; expected a local time in `timezone`, such as 22:00")
    return given


def _normal(text: str) -> str:
    """Return the normal form of a URL, with the host name as DNS knows it."""
    try:
        return str(HttpUrl(text))
    except ValueError:
        raise ValueError(f"{text!r} is not a URL such as https://example.org/hook") from None


def _url(text: str) -> str:
    _normal(text)
    return text


def _followed(events: str) -> str:
    if events.startswith("saga."):
        raise ValueError("saga events cannot be subscribed to: they are on live streams only")
    return events


Zone = Annotated[str, AfterValidator(_zone)]
# A pattern, because the format `time` of JSON Schema requires an offset.
Clock = Annotated[
    time,
    AfterValidator(_by_the_users_clock),
    WithJsonSchema({"type": "string", "pattern": r"^([01]\d|2[0-3]):[0-5]\d(:[0-5]\d(\.\d{1,6})?)?$"}),
]
Address = Annotated[str, StringConstraints(pattern=r"^[^@\s,;<>]{1,64}@[^@\s,;<>]{1,255}$")]
Url = Annotated[str, StringConstraints(pattern=r"^https?://[^\s]{1,2000}$"), AfterValidator(_url)]
Secret = Annotated[str, StringConstraints(min_length=16, max_length=256)]
Pattern = Annotated[
    str,
    StringConstraints(pattern=r"^[a-z][a-z0-9_.]{0,199}\*?$"),
    Field(description="An event type, or a prefix with a star at its end, as in `task.*`."),
]


Channels = Annotated[
    tuple[Channel, ...],
    Field(min_length=1),
    # Without duplicates, of which there could be any number: statements answer with many users' preferences.
    AfterValidator(lambda named: tuple(dict.fromkeys(named))),
]


_ENCODED = "whsec_"
_KEY_BYTES = range(24, 65)


def signing_key(secret: str) -> bytes:
    """Return the key that a secret stands for. Raises ValueError.

    In the Standard Webhooks specification, a secret is the prefix `whsec_` and the key in Base64. A secret
    without the prefix is itself the key.
    """
    if not secret.startswith(_ENCODED):
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(_ENCODED), validate=True)
    except ValueError:
        key = b""
    if len(key) not in _KEY_BYTES:
        raise ValueError(f"expected {_KEY_BYTES[0]} to {_KEY_BYTES[-1]} bytes in Base64 after {_ENCODED}")
    return key


def _signs(secret: str) -> str:
    signing_key(secret)
    return secret


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class QuietHours(_Model):
    """When not to disturb the user, in the user's time zone; the hours may span midnight."""

    start: Clock
    end: Clock

    def cover(self, clock: time) -> bool:
        """Return whether a time of day is within the quiet hours."""
        if self.start > self.end:
            return clock >= self.start or clock < self.end
        return self.start <= clock < self.end

    def until(self, now: datetime, zone: ZoneInfo) -> datetime | None:
        """Return when the present quiet hours end, or None outside them."""
        local = now.astimezone(zone)
        clock = local.timetz().replace(tzinfo=None)
        if not self.cover(clock):
            return None
        day = local.date() + timedelta(days=1 if clock >= self.start > self.end else 0)
        # When clocks are set back, the end may come twice. The second is meant, as the first may be past.
        ends = (datetime.combine(day, self.end.replace(fold=fold), zone) for fold in (0, 1))
        return max(end.astimezone(UTC) for end in ends)


class Webhook(_Model):
    """A webhook: the URL to post to, and the secret to sign with."""

    url: Url
    """As stored, not in normal form: the counts of failures find the webhook by this text."""
    secret: Secret

    @property
    def address(self) -> str:
        """Return the URL in normal form; one that an earlier release stored may be in another form."""
        return _normal(self.url)


class Subscription(_Model):
    """Events to be told of. With `mine`, only those that concern the user.

    What is addressed to somebody else, such as their reminders, is never included.
    """

    events: Pattern
    channels: Channels = (Channel.INBOX,)
    mine: bool = True


_USUAL = ("notification.*", "reminder.*", "task.assigned")
_MOST = 100  # subscriptions of one user


class Preferences(_Model):
    """What a user is told, and how. By default, what concerns the user most goes to the inbox."""

    subscriptions: Annotated[tuple[Subscription, ...], Field(max_length=_MOST)] = tuple(
        Subscription(events=events) for events in _USUAL
    )
    timezone: Zone = "UTC"
    """The user's time zone, such as `Europe/Berlin`, in which quiet hours and `digest_at` are."""
    quiet_hours: QuietHours | None = None
    digest_at: Clock | None = None
    """The time of day at which e-mails are sent as one; without it, only those that had to wait are."""
    email: Address | None = None
    webhook: Webhook | None = None

    @classmethod
    def stored(cls, data: Mapping[str, Any]) -> Preferences:
        """Return stored preferences, with defaults for fields that are not valid any more.

        Time zones are abolished, and the rules of a later release may be stricter.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            wrong = {place[0] for one in error.errors() if (place := one["loc"])}
            return cls.model_validate({name: value for name, value in data.items() if name not in wrong})

    def channels_for(self, kind: str, *, mine: bool) -> tuple[Channel, ...]:
        """Return the channels for an event type; `mine` says whether the event concerns the user."""
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
        """Return when a notice that comes up at `now` is due on a channel."""
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
        """Return `at`, or the end of the quiet hours that it falls into."""
        if self.quiet_hours is None:
            return at
        return self.quiet_hours.until(at, ZoneInfo(self.timezone)) or at

    def sendable(self, channel: Channel, at: datetime) -> datetime:
        """Return when to send what is due at `at`: after any quiet hours.

        Only a digest whose own time is within the quiet hours is sent during them.
        """
        digest = self.digest_at if channel is Channel.EMAIL else None
        wanted = digest is not None and self.quiet_hours is not None and self.quiet_hours.cover(digest)
        return at if wanted else self.undisturbed(at)


class GivenWebhook(_Model):
    """A webhook to set. A secret cannot be read back; without one, the secret stored for this URL stays."""

    url: Annotated[Url, AfterValidator(_normal)]
    secret: Annotated[Secret, AfterValidator(_signs)] | None = None


class GivenSubscription(Subscription):
    """A subscription to set. The events of sagas are available on live streams only."""

    events: Annotated[Pattern, AfterValidator(_followed)]


class GivenPreferences(Preferences):
    """The preferences to set."""

    subscriptions: Annotated[tuple[GivenSubscription, ...], Field(max_length=_MOST)] = tuple(
        GivenSubscription(events=events) for events in _USUAL
    )
    webhook: GivenWebhook | None = None  # type: ignore[assignment]

    def kept(self, stored: Preferences) -> Preferences:
        """Return what to store, given what is stored. Raises ValidationError if a secret is missing."""
        data = self.model_dump(exclude_none=True)
        given, before = self.webhook, stored.webhook
        if given is not None and before is not None and given.url == before.address:
            data["webhook"] = {"secret": before.secret} | data["webhook"]
        return Preferences.model_validate(data)


def matches(pattern: str, kind: str) -> bool:
    """Return whether an event type matches a pattern, which may end with a star."""
    return kind.startswith(pattern[:-1]) if pattern.endswith("*") else kind == pattern
