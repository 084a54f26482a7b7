"""The console's application: serves the page, authenticates callers and passes allowed requests on."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx2
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from annals.web import ServiceApp, create_app
from annals.web.background import background
from annals.web.connections import connected
from annals_console import authentication, gateway, health, page, sessions, sign_in
from annals_console.edge import Edge
from annals_console.identity import Claims
from annals_console.settings import AuthMode, ConsoleSettings
from annals_console.tokens import Tokens

_ISSUER_SECONDS = 10.0  # for one request to the issuer
_OWN_NAMES = ["127.0.0.1", "localhost"]


def create(settings: ConsoleSettings) -> ServiceApp:
    """Create the application, which connects to its sidecar when it starts."""

    @asynccontextmanager
    async def lifespan(app: ServiceApp) -> AsyncIterator[None]:
        async with connected(settings, connections=gateway.CONNECTIONS) as (sidecar, invocation):
            files = page.load(settings.page)
            measured = health.Health()

            async def ready() -> Mapping[str, str]:
                missing = {}
                if not await sidecar.healthy():
                    missing["sidecar"] = "it does not answer"
                if not files:
                    missing["page"] = f"{settings.page} holds none: run `make setup`"
                return missing

            app.ready = ready
            trusted = await asyncio.to_thread(httpx2.create_ssl_context)
            async with (
                httpx2.AsyncClient(timeout=_ISSUER_SECONDS, verify=trusted) as http,
                background(measured.run(invocation), "health"),
            ):
                if settings.auth is AuthMode.OIDC:
                    claims = Claims(
                        settings.oidc_user_claim,
                        settings.oidc_name_claim,
                        settings.oidc_tenant_claim,
                        settings.oidc_roles_claim,
                        settings.oidc_tenant,
                        settings.oidc_suite_role,
                    )
                    tokens = Tokens(settings.oidc_issuer or "", http)
                    audience = settings.oidc_audience or settings.oidc_client_id or ""
                    authenticate = authentication.of_issuer(tokens, claims, audience)
                    app.include_router(sign_in.of_issuer(settings, tokens, claims, trusted))
                else:
                    authenticate = authentication.of_development
                    app.include_router(sign_in.of_development(settings))
                app.include_router(sign_in.common(settings, authenticate))
                app.include_router(health.routes(measured, authenticate))
                app.include_router(gateway.routes(invocation, authenticate, lambda: app.draining))
                page.serve_elsewhere(app.router, files)
                yield

    app = create_app("Annals console", settings, lifespan=lifespan, public=True)
    if settings.auth is not AuthMode.OIDC:
        # Against DNS rebinding: a foreign site whose name resolves to this host could else act as anybody.
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_OWN_NAMES)
    key = settings.session_key
    app.add_middleware(GZipMiddleware, minimum_size=1000)
    app.add_middleware(
        SessionMiddleware,
        secret_key=key.get_secret_value() if key else secrets.token_urlsafe(32),
        session_cookie=f"__Host-{sessions.COOKIE}" if settings.secure else sessions.COOKIE,
        max_age=int(settings.session_hours * 3600),
        same_site="lax",
        https_only=settings.secure,
    )
    app.add_middleware(Edge, secure=settings.secure)
    return app
