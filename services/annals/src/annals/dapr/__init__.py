"""The thin asyncio client of the sidecar: what the services reach the outside with."""

from annals.dapr.errors import DaprError, SidecarUnavailable, StateConflict
from annals.dapr.invocation import Answer, NotAnswered, Opened, ServiceInvocation
from annals.dapr.jobs import Jobs
from annals.dapr.sidecar import DaprSidecar, Message, StateValue, Write
from annals.dapr.workflows import Workflows

__all__ = [
    "Answer",
    "DaprError",
    "DaprSidecar",
    "Jobs",
    "Message",
    "NotAnswered",
    "Opened",
    "ServiceInvocation",
    "SidecarUnavailable",
    "StateConflict",
    "StateValue",
    "Workflows",
    "Write",
]
