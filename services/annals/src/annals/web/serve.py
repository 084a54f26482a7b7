"""Serve an application until the process is told to end, then drain."""

from __future__ import annotations

import uvicorn

from annals.telemetry import logs, traces
from annals.web.app import ServiceApp
from annals.web.settings import ServiceSettings

_DRAIN_SECONDS = 15
# Whoever calls is to be the first to let go of an idle connection: a request that is sent just as the server
# closes it is lost. The sidecar keeps one for 90 s (Go's http.DefaultTransport), ingresses do for 60 s.
_KEEP_ALIVE_SECONDS = 120


class _Server(uvicorn.Server):
    """Says that it drains before it stops to listen, so that /readyz can say so too."""

    def handle_exit(self, sig: int, frame: object) -> None:
        app = self.config.app
        if isinstance(app, ServiceApp):
            app.draining = True
        super().handle_exit(sig, frame)  # type: ignore[arg-type]


def serve(app: ServiceApp, settings: ServiceSettings, service: str) -> None:
    """Run until SIGTERM: what is under way is finished, then the lifespan ends."""
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
        # By default uvicorn believes whatever comes from this very host: also an address that is forged.
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies,
    )
    _Server(config).run()
    traces.shutdown()
