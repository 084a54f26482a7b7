"""The thin asyncio client of the sidecar: what the services reach the outside with."""

from annals.dapr.errors import DaprError, SidecarUnavailable, StateConflict
from annals.dapr.sidecar import DaprSidecar, Message, StateValue, Write

__all__ = [
    "DaprError",
    "DaprSidecar",
    "Message",
    "SidecarUnavailable",
    "StateConflict",
    "StateValue",
    "Write",
]
