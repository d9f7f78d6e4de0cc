"""CloudEvents 1.0 in binary mode: envelope in the record's headers, data alone in its value."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trainwright.contracts.base import Event, iso
from trainwright.runtime.telemetry.tracing import new_traceparent


class Poison(Exception):
    """A record that can never be applied, however often it is read."""


class Record(Protocol):
    """A record as a Kafka client hands it out."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


@dataclass(frozen=True, slots=True)
class Reread:
    """A record that does not come from a Kafka client: out of a dead letter, or in place of one it cannot read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, slots=True)
class Cause:
    """Why something is emitted: the incoming event or request that the new identifiers derive from."""

    id: str
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Envelope:
    """What surrounds an event: CloudEvents attributes and our extensions."""

    id: str
    type: str
    source: str
    subject: str
    time: str
    version: int | None = None
    attempt: int | None = None
    traceparent: str | None = None

    @property
    def cause(self) -> Cause:
        """Return this event as the cause of what follows from it."""
        return Cause(self.id, self.traceparent)


def wrap(event: Event, *, id: str, source: str, time: datetime, traceparent: str | None) -> Envelope:
    """Return an event's envelope; without a cause it begins a trace of its own, which is not recorded."""
    return Envelope(
        id=id,
        type=event.type_name(),
        source=f"/services/{source}",
        subject=event.subject,
        time=iso(time),
        version=event.aggregate_version,
        attempt=event.attempt_number,
        traceparent=traceparent or new_traceparent(sampled=False),
    )


def to_headers(envelope: Envelope) -> list[tuple[str, str]]:
    """Return the record headers of an envelope."""
    headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", envelope.id),
        ("ce_type", envelope.type),
        ("ce_source", envelope.source),
        ("ce_subject", envelope.subject),
        ("ce_time", envelope.time),
        ("content-type", "application/json"),
    ]
    optional = (("version", envelope.version), ("attempt", envelope.attempt))
    headers += [(f"ce_{name}", str(value)) for name, value in optional if value is not None]
    if envelope.traceparent:
        headers.append(("ce_traceparent", envelope.traceparent))
    return headers


def from_headers(raw: Sequence[tuple[str, bytes]]) -> Envelope:
    """Read an envelope; headers that are not ours, and their encoding, do not matter.

    Raises:
        Poison: An attribute that CloudEvents requires is missing or is not text.
    """
    found: dict[str, str] = {}
    for name, value in raw:
        if name.startswith("ce_"):
            try:
                found[name[3:]] = (value or b"").decode()
            except UnicodeDecodeError:
                raise Poison(f"header {name} is not UTF-8") from None
    missing = [name for name in ("id", "type", "source") if not found.get(name)]
    if missing:
        raise Poison(f"no CloudEvents envelope: ce_{missing[0]} is missing")
    return Envelope(
        id=found["id"],
        type=found["type"],
        source=found["source"],
        subject=found.get("subject", ""),
        time=found.get("time", ""),
        version=_number(found.get("version")),
        attempt=_number(found.get("attempt")),
        traceparent=found.get("traceparent"),
    )


def _number(text: str | None) -> int | None:
    readable = text is not None and text.isascii() and text.isdigit() and len(text) < 20
    return int(text) if text is not None and readable else None
