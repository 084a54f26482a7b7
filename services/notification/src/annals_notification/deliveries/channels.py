"""Sends webhooks and e-mails. Each sender returns what to log as the answer, or raises NotDelivered."""

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
"""How long a webhook may take, including the DNS lookup."""
MAIL_SECONDS = 60.0
"""How long an e-mail may take: mail servers are slow, and an e-mail that was given up may still be sent."""
_GONE = 410
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""The NAT64 prefix (RFC 6052): the last 32 bits of such an address are an IPv4 address."""
_LEADING_ANYWHERE = (
    ipaddress.IPv6Network("64:ff9b:1::/48"),
    ipaddress.IPv6Network("::/96"),
    ipaddress.IPv6Network("::ffff:0:0:0/96"),
)
"""More prefixes that may lead to an IPv4 address: local NAT64, where its place is unknown (RFC 8215), and
the obsolete IPv4-compatible and IPv4-translated addresses (RFC 4291, 2.5.5.1; RFC 2765)."""


class NotDelivered(Exception):
    """A delivery failed, or it is unknown whether it arrived. If `final`, a retry cannot help."""

    def __init__(self, reason: str, *, final: bool = False) -> None:
        super().__init__(reason)
        self.final = final


class Forbidden(OSError):
    """A webhook's host is in a network that must not be reached, or has an impossible name or address."""


class _PublicResolver(AbstractResolver):
    """Resolves host names and refuses private addresses.

    It serves the request as well as the check before it: a name's address may change in between.
    """

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
        raise Forbidden(f"{address} is a private or link-local address, leads to one, or cannot be a host")


def _is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.is_site_local or any(address in network for network in _LEADING_ANYWHERE):
            return False
        # Python before 3.11.10 takes an IPv4-mapped address in 100.64.0.0/10 for public.
        if address.ipv4_mapped is not None:
            return _is_public(address.ipv4_mapped)
        if address in _NAT64:
            return _is_public(ipaddress.IPv4Address(address.packed[-4:]))
        if address.sixtofour is not None and not _is_public(address.sixtofour):
            return False
    return address.is_global and not address.is_multicast


class WebhookSender:
    """Posts signed notices according to the Standard Webhooks specification 1.0."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        resolver = None if allow_private else _PublicResolver()
        self._session = aiohttp.ClientSession(
            # The dispatcher limits how many are sent at a time.
            connector=aiohttp.TCPConnector(resolver=resolver, limit=0),
            timeout=aiohttp.ClientTimeout(),
            # One session posts for all users, so it must not keep cookies for the next request.
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        """Close the HTTP session and its connections."""
        await self._session.close()

    async def check(self, url: str) -> None:
        """Raise Forbidden if a URL must not be posted to, or OSError if its host cannot be found."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        if self._allow_private:
            return
        try:
            _require_public(host)
        except ValueError:  # not an IP address but a host name
            resolver = _PublicResolver()
            try:
                async with asyncio.timeout(WEBHOOK_SECONDS):
                    await resolver.resolve(host, parts.port or 443, socket.AF_UNSPEC)
            except TimeoutError as error:
                raise TimeoutError(f"{host} was not found in {WEBHOOK_SECONDS:g} seconds") from error
            except UnicodeError as error:  # raised by Python for a label that is too long
                raise Forbidden(f"{host} is not a valid host name") from error
            finally:
                await resolver.close()

    async def send(self, webhook: Webhook, claimed: Claimed) -> str:
        """Post one notice; return the status and the beginning of the answer. Raises NotDelivered."""
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
                await self.check(webhook.address)
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
    """Return the headers by which a receiver verifies the sender and the time of a message."""
    stamp = str(int(at.timestamp()))
    content = f"{message_id}.{stamp}.".encode() + body
    try:
        key = signing_key(secret)
    except ValueError:  # stored before secrets were validated
        key = secret.encode()
    signature = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": stamp,
        "webhook-signature": f"v1,{signature}",
    }


class MailSender:
    """Sends e-mails through an output binding, one at a time.

    bindings.smtp writes the recipient and subject of each call into one Mailer that all calls share
    (components-contrib 1.18, bindings/smtp/smtp.go, mergeWithRequestMetadata: `merged := metadata`
    copies a pointer). With two calls at a time, one e-mail would go to the other's recipient.
    """

    def __init__(self, sidecar: DaprSidecar, binding: str) -> None:
        self._sidecar = sidecar
        self._binding = binding
        self._turn = asyncio.Lock()

    async def send(self, address: str, claimed: Sequence[Claimed]) -> str:
        """Send one e-mail about one or several notices, after those before it. Raises NotDelivered."""
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
