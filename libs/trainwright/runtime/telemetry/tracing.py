"""Spans: what was done, as part of which trace, sent out by OpenTelemetry when somebody collects them.

A context travels as text (W3C `traceparent`) in headers, outbox rows and stores. With a collector named, a span
gets a context of its own that its children continue; without one, the parent's is passed on as it is, and
nothing of OpenTelemetry is imported. Nothing of an event's or a request's content goes into a span.
"""

import os
import re
import threading
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING

from trainwright.runtime.telemetry.names import Span

if TYPE_CHECKING:
    from trainwright.runtime.telemetry.exporting import Recorded, Recorder

TRACE: ContextVar[str | None] = ContextVar("traceparent", default=None)
"""The trace of the record or request at hand, for work whose answer follows later than its return."""

_FORM = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED, _UNSAMPLED = "-01", "-00"

Attributes = Mapping[str, str | int | None]
About = Callable[[], Attributes]


def new_traceparent(*, sampled: bool = True) -> str:
    """Return the root of a new trace; of one that nobody asked for (a pulse, a repeated word), unsampled."""
    drawn = os.urandom(24).hex()
    return f"00-{drawn[:32]}-{drawn[32:]}{_SAMPLED if sampled else _UNSAMPLED}"


def unsampled(traceparent: str | None) -> str | None:
    """Return the same place in the same trace, for what is too frequent to be recorded there."""
    return None if traceparent is None else traceparent[:-3] + _UNSAMPLED


class Open:
    """A span that is going on: a context manager, or `end()` it. One that is never ended is not recorded."""

    __slots__ = ("_recorded", "traceparent")

    def __init__(self, traceparent: str | None, recorded: "Recorded | None" = None) -> None:
        self.traceparent = traceparent
        """What continues from here carries this."""
        self._recorded = recorded

    def rename(self, name: str, about: About) -> None:
        """Give it the name, and what else is known only now."""
        if self._recorded is not None:
            self._recorded.rename(name, about())

    def end(self, error: BaseException | str | None = None) -> None:
        """End it, as one that failed if there is an error; of that only the class is kept."""
        if self._recorded is not None:
            self._recorded.end(error)

    def __enter__(self) -> "Open":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


class Tracing:
    """Where one process's spans go: nowhere, until it is started with a collector's address."""

    def __init__(self) -> None:
        self._recorder: Recorder | None = None

    @property
    def is_on(self) -> bool:
        """Return whether spans are recorded; for where even a span that is not costs too much."""
        return self._recorder is not None

    def start(self, endpoint: str | None) -> None:
        """Send spans to a collector (OTLP over HTTP) from now on; do nothing without an address."""
        if endpoint and self._recorder is None and os.environ.get("OTEL_SDK_DISABLED", "").lower() != "true":
            from trainwright.runtime.telemetry.exporting import Recorder  # a tenth of a second or more

            self._recorder = Recorder(f"{endpoint.rstrip('/')}/v1/traces")

    def stop(self, within: float) -> None:
        """Send what is left, for so many seconds at most; in a thread of its own, a collector may be dead."""
        recorder, self._recorder = self._recorder, None
        if recorder is not None:
            last = threading.Thread(target=recorder.close, name="last spans", daemon=True)
            last.start()
            last.join(within)

    def begin(self, kind: Span, service: str, name: str, parent: str | None, about: About) -> Open:
        """Begin a span that continues ``parent``; ``about`` gives its attributes, if it is recorded at all."""
        recorder = self._recorder
        if recorder is None or not _is_sampled(parent):
            return Open(parent)
        recorded = recorder.begin(kind, service, name, _continued(parent), about())
        return Open(recorded.traceparent, recorded)

    def reserve(self, parent: str | None) -> str | None:
        """Return the context of a span that is recorded when it is over, perhaps by another process."""
        if self._recorder is None or parent is None or not _is_sampled(parent) or _continued(parent) is None:
            return parent
        return f"{parent[:36]}{_new_span_id()}{parent[-3:]}"

    def past(
        self,
        kind: Span,
        service: str,
        name: str,
        reserved: str | None,
        parent: str | None,
        times: tuple[datetime, datetime],
        attributes: Attributes,
        error: str | None = None,
    ) -> None:
        """Record a span that is over, under the context that was reserved for it; none was: do nothing."""
        if self._recorder is None or reserved is None or reserved == parent or not _is_sampled(reserved):
            return
        began = self._recorder.begin(kind, service, name, _continued(parent), attributes, reserved, times[0])
        began.end(error, times[1])


TRACING = Tracing()
"""This process's: spans of all its services leave through one exporter."""


def _new_span_id() -> str:
    return os.urandom(8).hex()


def _continued(traceparent: str | None) -> str | None:
    """Return a context that can be continued; None for what others have sent and is none."""
    return traceparent if traceparent is not None and _FORM.fullmatch(traceparent) else None


def _is_sampled(traceparent: str | None) -> bool:
    return not traceparent or traceparent[-1] not in "02468ace"
