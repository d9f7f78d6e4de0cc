"""Events on their way to Kafka: a producer span each, which the record carries; counted when acknowledged."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from trainwright.runtime.clock import Clock
from trainwright.runtime.telemetry.events import event_attributes
from trainwright.runtime.telemetry.figures import count, observe
from trainwright.runtime.telemetry.names import PUBLISH, RELAY_SECONDS, RELAYED
from trainwright.runtime.telemetry.tracing import TRACING, Attributes, Open

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Send:
    """One record under way."""

    topic: str
    headers: Headers
    span: Open
    time: str


class Publishing:
    """What one service publishes."""

    def __init__(self, service: str, clock: Clock) -> None:
        self._service = service
        self._clock = clock

    def begin(self, topic: str, headers: Headers) -> Send:
        """Return a record's headers as they are to be sent: what applies it continues this sending."""
        known = dict(headers)
        name, parent = _event(known.get("ce_type", "")), known.get("ce_traceparent")
        span = TRACING.begin(PUBLISH, self._service, f"publish {name}", parent, lambda: _about(topic, known))
        if span.traceparent != parent and span.traceparent is not None:
            headers = [
                *(pair for pair in headers if pair[0] != "ce_traceparent"),
                ("ce_traceparent", span.traceparent),
            ]
        return Send(topic, headers, span, known["ce_time"])

    def end(self, sends: Sequence[Send]) -> None:
        """Note that all of these were acknowledged; those that were not are as if never tried."""
        now = self._clock.now()
        for topic, times in Counter(send.topic for send in sends).items():
            count(RELAYED, self._service, topic, by=times)
        for send in sends:
            send.span.end()
            waited = (now - datetime.fromisoformat(send.time)).total_seconds()
            observe(RELAY_SECONDS, self._service, value=max(0.0, waited))


def _event(type_name: str) -> str:
    """Return the class of an event: ``TaskReady`` of ``trainwright.task.TaskReady.v1``."""
    parts = type_name.split(".")
    return parts[-2] if len(parts) > 1 else type_name


def _about(topic: str, known: dict[str, str]) -> Attributes:
    return event_attributes(
        "send",
        topic,
        id=known.get("ce_id", ""),
        subject=known.get("ce_subject", ""),
        version=known.get("ce_version"),
        attempt=known.get("ce_attempt"),
    )
