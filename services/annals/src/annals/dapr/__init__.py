"""A thin asyncio client of the Dapr sidecar, through which the services reach everything outside."""

from annals.dapr.configuration import Configuration, ConfigurationItem
from annals.dapr.database import (
    BindingDatabase,
    Database,
    DatabaseError,
    StatementRefused,
    StatementTooLarge,
)
from annals.dapr.errors import DaprError, SidecarUnavailable, StateConflict, StateTooLong
from annals.dapr.invocation import Answer, NotAnswered, Opened, ServiceInvocation
from annals.dapr.jobs import Jobs
from annals.dapr.locks import LockLost, Locks, LockTaken
from annals.dapr.publish_metadata import publish_metadata
from annals.dapr.sidecar import DaprSidecar, Message, StateValue, Write
from annals.dapr.workflows import Workflows, WorkflowStalled

__all__ = [
    "Answer",
    "BindingDatabase",
    "Configuration",
    "ConfigurationItem",
    "DaprError",
    "DaprSidecar",
    "Database",
    "DatabaseError",
    "Jobs",
    "LockLost",
    "LockTaken",
    "Locks",
    "Message",
    "NotAnswered",
    "Opened",
    "ServiceInvocation",
    "SidecarUnavailable",
    "StateConflict",
    "StateTooLong",
    "StateValue",
    "StatementRefused",
    "StatementTooLarge",
    "WorkflowStalled",
    "Workflows",
    "Write",
    "publish_metadata",
]
