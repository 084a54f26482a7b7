"""A Dapr sidecar as a `Spec`, with the flags that `dapr run` would give it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from annals.free_ports import free_port
from suite import ports, runtime
from suite.process import Spec


@dataclass(frozen=True, slots=True)
class SidecarPorts:
    """The ports of one sidecar."""

    http: int
    grpc: int
    internal: int
    metrics: int

    @classmethod
    def free(cls) -> SidecarPorts:
        """Return ports that nothing listens on."""
        return cls(*(free_port() for _ in range(4)))


def sidecar(
    app_id: str,
    at: SidecarPorts,
    *,
    resources: Sequence[Path],
    config: Path | None,
    home: Path,
    app_port: int | None = None,
    health_path: str | None = None,
    placement: str = "",
    scheduler: str = "",
) -> Spec:
    """Return the spec of an app's sidecar. Relative paths in its components start at `home`.

    `placement` and `scheduler` are addresses, `host:port`; workflows and jobs need them.
    """
    argv = [
        str(runtime.dapr("daprd")),
        *("--app-id", app_id, "--dapr-listen-addresses", "127.0.0.1"),
        # The flag above covers the APIs only; without these two, other sidecars' calls and the metrics would
        # be open to the network.
        *("--dapr-internal-grpc-listen-address", "127.0.0.1", "--metrics-listen-address", "127.0.0.1"),
        *("--dapr-http-port", str(at.http), "--dapr-grpc-port", str(at.grpc)),
        *("--dapr-internal-grpc-port", str(at.internal), "--metrics-port", str(at.metrics)),
        *("--enable-profiling=false", "--log-as-json"),
        *("--placement-host-address", placement, "--scheduler-host-address", scheduler),
    ]
    for path in resources:
        argv += ["--resources-path", str(path)]
    if config is not None:
        argv += ["--config", str(config)]
    if app_port is not None:
        argv += ["--app-port", str(app_port), "--app-protocol", "http"]
    if health_path is not None:
        argv += ["--enable-app-health-check", "--app-health-check-path", health_path]
        argv += ["--app-health-probe-interval", "1", "--app-health-probe-timeout", "900"]
    return Spec(
        f"{app_id}-dapr",
        argv,
        lambda: ports.http_ok(at.http, "/v1.0/healthz/outbound"),
        # Without it, a sidecar looks for a network address of the machine, and exits if there is none.
        env={"DAPR_HOST_IP": "127.0.0.1"},
        cwd=home,
        stop_seconds=20,
    )
