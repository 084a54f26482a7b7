"""Refuses requests from other sites' pages, and tells browsers what they may do with each response."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annals.web.problems import Problem, problem_response

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

# Nothing inline and nothing from other origins, so that text from users, such as a title, cannot run as code.
_CONTENT = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_HEADERS = {
    "content-security-policy": _CONTENT,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_HTTPS_ONLY = "max-age=31536000"


class Edge:
    """Middleware that checks the origin of requests, and adds security headers to responses.

    A request that changes something must come from the console's own page, which browsers state in
    `Sec-Fetch-Site` and `Origin`. Other clients send neither, and have no cookie to misuse.
    """

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        self._app = app
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse the request, or pass it on and add the headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if self._secure:
                    headers.setdefault("strict-transport-security", _HTTPS_ONLY)
            await send(message)

        if scope["method"] not in _SAFE and not _same_origin(Headers(scope=scope)):
            problem = Problem(403, "cross-site", "this request comes from another site's page")
            await problem_response(problem)(scope, receive, send_with_headers)
            return
        await self._app(scope, receive, send_with_headers)


def _same_origin(headers: Headers) -> bool:
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site in ("same-origin", "none")
    origin = headers.get("origin")
    # Browsers send just `scheme://host:port`. Others may send anything, even what no URL parser accepts.
    return origin is None or origin.partition("://")[2] == headers.get("host")
