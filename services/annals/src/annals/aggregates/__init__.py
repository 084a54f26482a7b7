"""Aggregates and the bus that brings commands to them."""

from annals.aggregates.aggregate import Aggregate, Command, NotFound, RuleViolation
from annals.aggregates.bus import (
    CommandBus,
    CommandContext,
    CommandRequest,
    CommandResult,
    Handler,
    KeyReused,
    UnknownCommand,
)
from annals.aggregates.folding import folding

__all__ = [
    "Aggregate",
    "Command",
    "CommandBus",
    "CommandContext",
    "CommandRequest",
    "CommandResult",
    "Handler",
    "KeyReused",
    "NotFound",
    "RuleViolation",
    "UnknownCommand",
    "folding",
]
