"""Serves an application until shutdown is requested, then drains it."""

from __future__ import annotations

import uvicorn

from annals.telemetry import logs, traces
from annals.web.app import ServiceApp
from annals.web.settings import ServiceSettings

_DRAIN_SECONDS = 15  # for requests under way when shutdown begins
# The client must be the first to close an idle connection: a request that is sent just as the server closes
# it is lost. The sidecar keeps idle connections for 90 s (Go's http.DefaultTransport), ingresses for 60 s.
_KEEP_ALIVE_SECONDS = 120


class _Server(uvicorn.Server):
    """Marks the app as draining before it stops listening, so that /readyz reports it."""

    def handle_exit(self, sig: int, frame: object) -> None:
        app = self.config.app
        if isinstance(app, ServiceApp):
            app.draining = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def serve(app: ServiceApp, settings: ServiceSettings, service: str) -> None:
    """Serve until SIGTERM; then finish the requests under way and end the lifespan."""
    logs.configure(service, settings.log_level)
    traces.configure(service, settings.zipkin_endpoint)
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.app_port,
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_DRAIN_SECONDS,
        server_header=False,
        date_header=False,
        # By default uvicorn trusts the proxy headers of all requests from this host, even a forged address.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
    )
    _Server(config).run()
    traces.shutdown()
