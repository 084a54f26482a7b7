"""How an e-mail and a webhook are sent. Each answers what was said, or raises NotDelivered."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import socket
from collections.abc import Sequence
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aiohttp
import orjson
from aiohttp.abc import AbstractResolver, ResolveResult

from annals.dapr import DaprError, DaprSidecar
from annals_notification.deliveries import texts
from annals_notification.deliveries.log import Claimed
from annals_notification.deliveries.preferences import Webhook, signing_key

WEBHOOK_SECONDS = 10.0
"""How long a webhook may take, to find its host included."""
MAIL_SECONDS = 60.0
"""How long an e-mail may take: a mail server takes its time, and what was given up may be sent yet."""
_GONE = 410
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""An IPv4 address is behind each of these, in its last bits: RFC 6052."""
_LEADING_ANYWHERE = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("::/96"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
)
"""As behind these, where nobody knows in which bits (RFC 8215), or may still (RFC 4291, 2.5.5.1; 2765)."""


class NotDelivered(Exception):
    """It did not arrive, or it is not known to have. `final`: to try it again is of no use."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Forbidden(OSError):
    """A webhook's host is in a network that must not be reached, or cannot be anywhere."""


class _PublicResolver(AbstractResolver):
    """Resolves hosts, and refuses private ones: also when a name changes between check and use."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._resolver.resolve(host, port, family)
        for one in found:
            _require_public(one["host"])
        return found

    async def close(self) -> None:
        await self._resolver.close()


def _require_public(address: str) -> None:
    if not _is_public(ipaddress.ip_address(address)):
        raise Forbidden(f"{address} is a private or link-local address, leads to one, or is no host's")


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local or any(address in network for network in _LEADING_ANYWHERE):
            return False
        # Of such a one Python before 3.11.10 says that 100.64.0.0/10 is public.
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(address.packed[-4:]))
        if address.sixtofour is not None and not _is_public(address.sixtofour):
            return False
    return address.is_global and not address.is_multicast


class WebhookSender:
    """Posts signed notices, as the Standard Webhooks specification 1.0 has it."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        resolver = None if allow_private else _PublicResolver()
        self._session = aiohttp.ClientSession(
            # How many are sent at a time is the dispatcher's to say.
            connector=aiohttp.TCPConnector(resolver=resolver, limit=0),
            timeout=aiohttp.ClientTimeout(),
            # One session posts for everybody: a cookie would go on to others' receivers.
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._session.close()

    async def check(self, webhook: Webhook) -> None:
        """Raise Forbidden or OSError for a URL that will not be posted to."""
        parts = urlsplit(webhook.address)
        host = parts.hostname or ""
        if self._allow_private:
            return
        try:
            _require_public(host)
        except ValueError:  # no literal address: a name
            resolver = _PublicResolver()
            try:
                async with asyncio.timeout(WEBHOOK_SECONDS):
                    await resolver.resolve(host, parts.port or 443, socket.AF_UNSPEC)
            except TimeoutError as error:
                raise TimeoutError(f"{host} was not found in {WEBHOOK_SECONDS:g} seconds") from error
            except UnicodeError as error:  # what Python says of a label that is too long
                raise Forbidden(f"{host} is no name of a host") from error
            finally:
                await resolver.close()

    async def send(self, webhook: Webhook, claimed: Claimed) -> str:
        """Post one notice."""
        body = orjson.dumps(
            {
                "id": claimed.id,
                "type": claimed.kind,
                "timestamp": claimed.occurred,
                "tenant": claimed.tenant,
                "user": claimed.user,
                "data": claimed.data,
            }
        )
        headers = signed(webhook.secret, claimed.id, datetime.now(UTC), body)
        if claimed.traceparent:
            headers["traceparent"] = claimed.traceparent
        try:
            async with asyncio.timeout(WEBHOOK_SECONDS):
                await self.check(webhook)
                post = self._session.post(webhook.address, data=body, headers=headers, allow_redirects=False)
                async with post as answer:
                    said = (await answer.content.read(500)).decode(errors="replace")
        except (Forbidden, UnicodeError) as error:
            raise NotDelivered(str(error), final=True) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise NotDelivered(f"{type(error).__name__}: {error}") from error
        if not 200 <= answer.status < 300:
            raise NotDelivered(f"{answer.status}: {said}", final=answer.status == _GONE)
        return f"{answer.status}: {said}"


def signed(secret: str, message_id: str, at: datetime, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows that a message is ours and new."""
    stamp = str(int(at.timestamp()))
    content = f"{message_id}.{stamp}.".encode() + body
    try:
        key = signing_key(secret)
    except ValueError:  # from when nobody looked
        key = secret.encode()
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }


class MailSender:
    """Sends e-mails by the output binding `email`, one after the other.

    bindings.smtp writes recipient and subject of each call into the one Mailer that all calls share
    (components-contrib 1.18, bindings/smtp/smtp.go, mergeWithRequestMetadata: `merged := metadata`
    copies a pointer). Of two calls at a time one would go to the other's recipient.
    """

    def __init__(self, sidecar: DaprSidecar, binding: str) -> None:
        self._sidecar = sidecar
        self._binding = binding
        self._turn = asyncio.Lock()

    async def send(self, address: str, claimed: Sequence[Claimed]) -> str:
        """Send one e-mail about one or several notices, when it is its turn."""
        subject, html = texts.mail(claimed)
        metadata = {"emailTo": address, "subject": subject}
        try:
            async with self._turn:
                await self._sidecar.invoke_binding(
                    self._binding, "create", metadata, html.encode(), seconds=MAIL_SECONDS
                )
        except DaprError as error:
            raise NotDelivered(str(error)) from error
        return "handed to the mail server"
