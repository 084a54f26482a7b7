"""Structured logs: one JSON object a line, with trace, tenant and correlation ids."""

from __future__ import annotations

import logging
import sys
from typing import Any

import orjson
import structlog
from opentelemetry import trace
from structlog.typing import EventDict, WrappedLogger


def _add_trace(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        fields["trace_id"] = trace.format_trace_id(context.trace_id)
        fields["span_id"] = trace.format_span_id(context.span_id)
    return fields


def _to_json(fields: EventDict, **_: Any) -> str:
    try:
        return _dumped(fields)
    except TypeError:
        # A lone surrogate, or an integer beyond 64 bits: log it as text rather than lose the line.
        return _dumped({_text(name): _plain(value) for name, value in fields.items()})


def _dumped(value: Any) -> str:
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _plain(value: Any) -> Any:
    try:
        _dumped(value)
    except TypeError:
        return _text(value)
    return value


def _text(value: Any) -> str:
    return str(value).encode(errors="backslashreplace").decode()


def configure(service: str, level: str = "info") -> None:
    """Send all logs of this process, including those of libraries, to standard output as JSON."""

    def add_service(_logger: WrappedLogger, _method: str, fields: EventDict) -> EventDict:
        return {"service": service, **fields}

    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_trace,
        add_service,
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(serializer=_to_json),
            ],
        )
    )
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)


def set_level(level: str) -> None:
    """Set the lowest level that is logged, while the process runs."""
    logging.getLogger().setLevel(level.upper())
