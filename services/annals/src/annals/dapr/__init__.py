"""The thin asyncio client of the sidecar: what the services reach the outside with."""

from annals.dapr.errors import DaprError, SidecarUnavailable, StateConflict
from annals.dapr.http import Answer, DaprHttp, NotAnswered, WorkflowError
from annals.dapr.sidecar import DaprSidecar, Message, StateValue, Write

__all__ = [
    "Answer",
    "DaprError",
    "DaprHttp",
    "DaprSidecar",
    "Message",
    "NotAnswered",
    "SidecarUnavailable",
    "StateConflict",
    "StateValue",
    "WorkflowError",
    "Write",
]
