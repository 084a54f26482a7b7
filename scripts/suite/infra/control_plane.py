"""Dapr's control plane on this machine."""

from __future__ import annotations

from pathlib import Path

from suite import ports, runtime
from suite.process import Spec


class ControlPlane:
    """Dapr's own servers: placement knows where actors are, the scheduler drives workflows and jobs.

    Their ports differ from those of `dapr init`, so that both can run on one machine.
    """

    def __init__(self, directory: Path, first_port: int) -> None:
        self._directory = directory / "scheduler"
        names = (
            *("placement", "placement_raft", "placement_health", "placement_metrics"),
            *("scheduler", "scheduler_etcd", "scheduler_peer", "scheduler_health", "scheduler_metrics"),
        )
        self.ports = {name: first_port + index for index, name in enumerate(names)}

    @property
    def placement(self) -> str:
        """The address of placement."""
        return f"127.0.0.1:{self.ports['placement']}"

    @property
    def scheduler(self) -> str:
        """The address of the scheduler."""
        return f"127.0.0.1:{self.ports['scheduler']}"

    def specs(self) -> list[Spec]:
        """Return the specs of both. The scheduler keeps its jobs on disk."""
        return [
            Spec(
                "placement",
                [
                    str(runtime.dapr("placement")),
                    *("--initial-cluster", f"dapr-placement-0=127.0.0.1:{self.ports['placement_raft']}"),
                    *self._flags("placement"),
                ],
                lambda: ports.http_ok(self.ports["placement_health"], "/healthz"),
            ),
            Spec(
                "scheduler",
                [
                    str(runtime.dapr("scheduler")),
                    *("--etcd-data-dir", str(self._directory)),
                    *("--etcd-client-port", str(self.ports["scheduler_etcd"])),
                    "--etcd-initial-cluster",
                    f"dapr-scheduler-server-0=http://127.0.0.1:{self.ports['scheduler_peer']}",
                    *("--override-broadcast-host-port", self.scheduler),
                    *self._flags("scheduler"),
                ],
                lambda: ports.http_ok(self.ports["scheduler_health"], "/healthz"),
            ),
        ]

    def _flags(self, name: str) -> list[str]:
        return [
            *("--listen-address", "127.0.0.1", "--port", str(self.ports[name])),
            *("--healthz-listen-address", "127.0.0.1", "--healthz-port", str(self.ports[f"{name}_health"])),
            *("--metrics-listen-address", "127.0.0.1", "--metrics-port", str(self.ports[f"{name}_metrics"])),
            "--log-as-json",
        ]
