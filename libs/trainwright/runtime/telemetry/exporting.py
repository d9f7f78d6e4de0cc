"""OpenTelemetry's side of spans: a tracer per service, one exporter, a bounded queue. Imported when needed.

Spans leave in the background; while the collector is away the queue (2,048, `OTEL_BSP_MAX_QUEUE_SIZE`) drops the
oldest. The standard's variables hold for the rest: headers, certificates, sampler, resource attributes.
"""

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, Status, StatusCode, TraceFlags

from trainwright.runtime.telemetry.figures import count
from trainwright.runtime.telemetry.names import SPANS, Span

logger = logging.getLogger(__name__)

_KINDS = {
    "server": SpanKind.SERVER,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
    "internal": SpanKind.INTERNAL,
}
_RESERVED: ContextVar[int | None] = ContextVar("reserved", default=None)


class Recorded:
    """A span that will be sent."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"

    def rename(self, name: str, attributes: Mapping[str, str | int | None]) -> None:
        """Change the name, add attributes."""
        self._span.update_name(name)
        self._span.set_attributes(_known(attributes))

    def end(self, error: BaseException | str | None, at: datetime | None = None) -> None:
        """End it; an error's words stay here, they may quote what was sent."""
        if error is not None:
            kind = error if isinstance(error, str) else type(error).__qualname__
            self._span.set_attribute("error.type", kind)
            self._span.set_status(Status(StatusCode.ERROR))
        self._span.end(_nanoseconds(at))


class Recorder:
    """Makes spans and sends them."""

    def __init__(self, endpoint: str) -> None:
        # Their words about every retry would fill the log while a collector is away; ours are said once.
        for name in ("opentelemetry.exporter", "opentelemetry.sdk._shared_internal"):
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._processor = BatchSpanProcessor(_Counted(OTLPSpanExporter(endpoint), endpoint))
        self._tracers: dict[str, trace.Tracer] = {}

    def begin(
        self,
        kind: Span,
        service: str,
        name: str,
        parent: str | None,
        attributes: Mapping[str, str | int | None],
        reserved: str | None = None,
        at: datetime | None = None,
    ) -> Recorded:
        """Begin a span, under an identifier that was reserved for it if there is one."""
        tracer = self._tracers.get(service) or self._tracer(service)
        token = _RESERVED.set(int(reserved[36:52], 16)) if reserved is not None else None
        try:
            span = tracer.start_span(
                name, _context(parent), _KINDS[kind.kind], _known(attributes), start_time=_nanoseconds(at)
            )
        finally:
            if token is not None:
                _RESERVED.reset(token)
        return Recorded(span)

    def close(self) -> None:
        """Send what is left."""
        self._processor.shutdown()  # type: ignore[no-untyped-call]

    def _tracer(self, service: str) -> trace.Tracer:
        about = {
            "service.name": service,
            "service.namespace": "trainwright",
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
        provider = TracerProvider(
            resource=Resource.create(about), id_generator=_Identifiers(), shutdown_on_exit=False
        )
        provider.add_span_processor(self._processor)
        tracer = self._tracers[service] = provider.get_tracer("trainwright")
        return tracer


class _Identifiers(RandomIdGenerator):
    def generate_span_id(self) -> int:
        reserved = _RESERVED.get()
        return reserved if reserved is not None else super().generate_span_id()


class _Counted(SpanExporter):
    """An exporter whose successes and failures are counted, and said when they change."""

    def __init__(self, exporter: SpanExporter, endpoint: str) -> None:
        self._exporter = exporter
        self._endpoint = endpoint
        self._works = True
        for outcome in ("exported", "failed"):
            count(SPANS, outcome, by=0)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        works = result is SpanExportResult.SUCCESS
        count(SPANS, "exported" if works else "failed", by=len(spans))
        if works is not self._works:
            self._works = works
            say = logger.info if works else logger.warning
            say("spans %s %s", "go again to" if works else "are lost, nobody takes them at", self._endpoint)
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


def _context(parent: str | None) -> Context | None:
    if parent is None:
        return None
    flags = TraceFlags(int(parent[-2:], 16))
    context = SpanContext(int(parent[3:35], 16), int(parent[36:52], 16), is_remote=True, trace_flags=flags)
    return trace.set_span_in_context(NonRecordingSpan(context))


def _known(attributes: Mapping[str, str | int | None]) -> dict[str, str | int]:
    return {name: value for name, value in attributes.items() if value is not None}


def _nanoseconds(at: datetime | None) -> int | None:
    return None if at is None else int(at.timestamp() * 1e9)
