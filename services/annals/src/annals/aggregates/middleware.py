"""The middleware round every command: functions `(request, next) -> result`, the outermost first."""

from __future__ import annotations

import dataclasses
import logging
import time

import structlog
from opentelemetry.trace import SpanKind

from annals.aggregates.aggregate import NotFound, RuleViolation
from annals.aggregates.bus import (
    CommandRequest,
    CommandResult,
    KeyReused,
    Next,
    UnknownCommand,
)
from annals.store.protocol import (
    AppendTooLarge,
    Backpressure,
    ConflictError,
    OutcomeUnknown,
    StoreUnavailable,
    Undecodable,
)
from annals.telemetry import metrics, traces

_log = structlog.get_logger(__name__)
_logger = logging.getLogger(__name__)

_OUTCOMES: tuple[tuple[type[Exception], str], ...] = (
    (UnknownCommand, "unknown"),
    (ValueError, "invalid"),
    (AppendTooLarge, "too_large"),
    (NotFound, "not_found"),
    (RuleViolation, "rejected"),
    (KeyReused, "rejected"),
    (ConflictError, "conflict"),
    (OutcomeUnknown, "outcome_unknown"),
    (Backpressure, "backpressure"),
    (StoreUnavailable, "unavailable"),
    (Undecodable, "unavailable"),
    (PermissionError, "forbidden"),
)


def _outcome(error: Exception) -> str:
    return next((name for kind, name in _OUTCOMES if isinstance(error, kind)), "error")


async def log_commands(request: CommandRequest, following: Next) -> CommandResult:
    """Log the outcome of each command, with its ids."""
    try:
        result = await following(request)
    except Exception as error:
        _log.info("command failed", **_ids(request), outcome=_outcome(error), reason=str(error))
        raise
    if _logger.isEnabledFor(logging.DEBUG):
        _log.debug("command done", **_ids(request), position=str(result.appended.position))
    return result


def _ids(request: CommandRequest) -> dict[str, str | None]:
    given = request.context
    return {
        "command": request.type,
        "tenant": given.tenant,
        "user": given.user,
        "correlation_id": given.correlation_id or request.idempotency_key,
        "trace_id": given.trace_id,
    }


async def count_commands(request: CommandRequest, following: Next) -> CommandResult:
    """Count commands by type and outcome, and time them."""
    started = time.perf_counter()
    # A command that is cancelled reaches none of the branches below.
    outcome = "cancelled"
    command_type = request.type
    try:
        result = await following(request)
    except UnknownCommand as error:
        # A type that a caller makes up must not become a time series of its own.
        outcome, command_type = _outcome(error), "unknown"
        raise
    except Exception as error:
        outcome = _outcome(error)
        raise
    else:
        outcome = "done"
        return result
    finally:
        metrics.COMMANDS.labels(command_type, outcome).inc()
        metrics.COMMAND_DURATION.labels(command_type).observe(time.perf_counter() - started)


async def trace_commands(request: CommandRequest, following: Next) -> CommandResult:
    """Open a span round a sampled command. The command's events carry that span in `traceparent`."""
    parent = request.context.traceparent
    if parent is None or not parent.endswith("-01"):
        return await following(request)
    tenant = {"annals.tenant": request.context.tenant}
    with traces.span(f"command {request.type}", parent, SpanKind.SERVER, **tenant):
        inner = dataclasses.replace(
            request.context, traceparent=traces.current_traceparent() or request.context.traceparent
        )
        return await following(dataclasses.replace(request, context=inner))
