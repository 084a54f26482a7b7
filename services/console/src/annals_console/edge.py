"""What the edge sees to in every request: where it comes from, and what browsers may do with the answer."""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from annals.web.problems import Problem, problem_response

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})

# Nothing inline and nothing from elsewhere: what somebody writes into a title cannot become code.
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
    """See the module.

    A request that changes something must come from the console's own page: browsers say so by
    `Sec-Fetch-Site`, and by `Origin`. What is no browser sends neither, and has no cookie to misuse.
    """

    def __init__(self, app: ASGIApp, *, secure: bool) -> None:
        self._app = app
        self._secure = secure

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
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
    # A browser's is nothing but `scheme://host:port`; others may send what cannot be parsed.
    return origin is None or origin.partition("://")[2] == headers.get("host")
