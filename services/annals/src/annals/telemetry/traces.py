"""Traces: W3C context in, spans to Zipkin, one trace from the command to the read model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from opentelemetry import trace
from opentelemetry.exporter.zipkin.json import ZipkinExporter
from opentelemetry.sdk.resources import SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ParentBased
from opentelemetry.trace import Link, SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from annals.events import RecordedEvent, StreamId

_tracer = trace.get_tracer("annals")
_propagator = TraceContextTextMapPropagator()


def configure(service: str, zipkin_endpoint: str | None) -> None:
    """Export spans to Zipkin; without an endpoint, contexts are passed on and nothing is recorded.

    The sampling rate of the first sidecar decides whether a trace is recorded.
    """
    if zipkin_endpoint is None:
        return
    # A span without a parent is not sampled: only the suite's own housekeeping starts traces here.
    provider = TracerProvider(
        sampler=ParentBased(root=ALWAYS_OFF), resource=Resource.create({SERVICE_NAME: service})
    )
    provider.add_span_processor(BatchSpanProcessor(ZipkinExporter(endpoint=zipkin_endpoint)))
    trace.set_tracer_provider(provider)


def shutdown() -> None:
    """Export the remaining spans, and block until that is done."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.shutdown()


@contextmanager
def span(
    name: str, traceparent: str | None = None, kind: SpanKind = SpanKind.INTERNAL, **attributes: str
) -> Iterator[None]:
    """Run a block in a span, whose parent is the span that `traceparent` names or else the current one."""
    context = _propagator.extract({"traceparent": traceparent}) if traceparent else None
    with _tracer.start_as_current_span(name, context, kind, attributes):
        yield


@contextmanager
def append_span(stream: StreamId, events: int) -> Iterator[None]:
    """Run an append in a span of its command's trace; without a span if that trace is not sampled.

    One transaction may commit the appends of several commands. Each has such a span, in its own trace.
    """
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        yield
        return
    attributes: dict[str, str | int] = {
        "annals.stream": stream.name,
        "annals.tenant": stream.tenant,
        "annals.events": events,
    }
    with _tracer.start_as_current_span("append", kind=SpanKind.CLIENT, attributes=attributes):
        yield


def current_traceparent() -> str | None:
    """Return the current span as a W3C traceparent; None if there is no trace."""
    return _traceparent(trace.get_current_span().get_span_context())


def publish_spans(topic: str, events: Sequence[RecordedEvent]) -> AbstractContextManager[list[str | None]]:
    """Wrap a bulk publish in one span for each sampled event, in the event's own trace.

    The context manager gives the traceparents to publish the events with, in their order.
    """
    return _spans([f"publish {topic}"] * len(events), SpanKind.PRODUCER, events)


def project_spans(events: Sequence[RecordedEvent]) -> AbstractContextManager[list[str | None]]:
    """Wrap a batch that is applied to the read models in spans, as `publish_spans` does."""
    return _spans([f"project {event.event_type}" for event in events], SpanKind.CONSUMER, events)


@contextmanager
def _spans(
    names: Sequence[str], kind: SpanKind, events: Sequence[RecordedEvent]
) -> Iterator[list[str | None]]:
    """Start a span in the trace of each sampled event, because a span has one parent and a batch has many.

    The spans of a batch are linked to the trace of its first sampled event.
    """
    traceparents: list[str | None] = [event.traceparent for event in events]
    sampled = [index for index, parent in enumerate(traceparents) if parent and parent.endswith("-01")]
    if not sampled or not isinstance(trace.get_tracer_provider(), TracerProvider):
        yield traceparents
        return
    contexts = {index: _propagator.extract({"traceparent": traceparents[index] or ""}) for index in sampled}
    first = trace.get_current_span(contexts[sampled[0]]).get_span_context()
    spans = []
    for index in sampled:
        event = events[index]
        spans.append(
            _tracer.start_span(
                names[index],
                contexts[index],
                kind,
                {
                    "messaging.message.id": event.event_id,
                    "annals.stream": event.stream.name,
                    "annals.version": event.version,
                    "annals.position": str(event.position),
                },
                links=[Link(first)] if len(sampled) > 1 else (),
            )
        )
        traceparents[index] = _traceparent(spans[-1].get_span_context())
    try:
        yield traceparents
    finally:
        for one in spans:
            one.end()


def _traceparent(context: SpanContext) -> str | None:
    if not context.is_valid:
        return None
    flags = "01" if context.trace_flags & TraceFlags.SAMPLED else "00"
    return f"00-{trace.format_trace_id(context.trace_id)}-{trace.format_span_id(context.span_id)}-{flags}"
