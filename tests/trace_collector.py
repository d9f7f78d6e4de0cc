"""A collector of spans for the tests: it takes OTLP over HTTP as a real one does, and keeps what came."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status

from tests.patience import patient
from trainwright.runtime.telemetry.names import Step


@dataclass(frozen=True, slots=True)
class Span:
    """A span as it came."""

    step: Step
    trace_id: str
    span_id: str
    parent_id: str
    seconds: float
    failed: bool
    attributes: dict[str, Any]


class Collector:
    """Where spans are sent, and those that came."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []

    def take(self, body: bytes) -> None:
        """Keep the spans of one request."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {pair.key: pair.value.string_value for pair in group.resource.attributes}
            for scope in group.scope_spans:
                self.spans += [_span(about["service.name"], span) for span in scope.spans]

    def named(self, step: Step) -> list[Span]:
        """Return the spans of one name."""
        return [span for span in self.spans if span.step == step]


@contextmanager
def collecting() -> Iterator[Collector]:
    """Collect spans until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/traces", self.path
            collector.take(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        collector = Collector(f"http://127.0.0.1:{server.server_port}")
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield collector
        finally:
            server.shutdown()


def _span(service: str, span: Any) -> Span:
    attributes = {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in span.attributes}
    return Span(
        Step(service, span.name),
        span.trace_id.hex(),
        span.span_id.hex(),
        span.parent_span_id.hex(),
        (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
        span.status.code == Status.STATUS_CODE_ERROR,
        attributes,
    )


def until(done: Any, within: float, every: float = 0.1) -> bool:
    """Wait for something to be true; return whether it came to that."""
    deadline = patient(within)
    while not (found := done()) and time.monotonic() < deadline:
        time.sleep(every)
    return bool(found)
