"""What is said on the log, as CloudEvents in structured mode, and who wants to hear it. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import orjson

from services.gateway.stream.position import NOUNS, Partition
from trainwright.contracts.base import nearest
from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.contracts.topics import EVENT_TYPES, LOG, METRIC, PULSE, TOPIC_OF, TOPICS
from trainwright.runtime.envelope import Envelope, Poison, Record, from_headers

LOUD = frozenset({PULSE.name, METRIC.name, LOG.name})
"""Topics with many records, heard only by who names them or one of their types."""
QUIET = frozenset(topic.name for topic in TOPICS) - LOUD

TYPES = {kind.__name__: name for name, kind in EVENT_TYPES.items()}
"""Full names of events by their class names."""
TOPIC_OF_TYPE = {kind.type_name(): topic.name for kind, topic in TOPIC_OF.items()}


class Said:
    """One record of the log; ``document`` is None if it is no event (services dead-letter such records)."""

    def __init__(self, record: Record, timestamp: int) -> None:
        self.partition: Partition = (record.topic, record.partition)
        self.offset = record.offset
        self.timestamp = timestamp
        self.size = len(record.value or b"")
        self._value = record.value
        try:
            self.envelope: Envelope | None = from_headers(record.headers)
        except Poison:
            self.envelope = None

    @cached_property
    def document(self) -> bytes | None:
        """Return the whole event as one line of JSON."""
        envelope, value, self._value = self.envelope, self._value, None
        if envelope is None or value is None:
            return None
        try:
            return structured(envelope, orjson.loads(value), self)
        except ValueError:
            return None


def structured(envelope: Envelope, data: Any, at: Said | None = None) -> bytes:
    """Return an event in the JSON format of CloudEvents 1.0; where it stands in the log are extensions of ours."""
    whole: dict[str, Any] = {
        "specversion": "1.0",
        "id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "subject": envelope.subject or None,
        "time": envelope.time or None,
        "datacontenttype": "application/json",
        "version": envelope.version,
        "attempt": envelope.attempt,
        "traceparent": envelope.traceparent,
    }
    if at is not None:
        whole |= {"topic": at.partition[0], "partition": at.partition[1], "offset": at.offset}
    return orjson.dumps({name: value for name, value in whole.items() if value is not None} | {"data": data})


@dataclass(frozen=True, slots=True)
class Filter:
    """Which events somebody wants."""

    topics: frozenset[str]
    types: frozenset[str] | None = None
    subject: str | None = None

    def wants(self, said: Said) -> bool:
        """Return whether an event is among them."""
        envelope = said.envelope
        return (
            envelope is not None
            and (self.types is None or envelope.type in self.types)
            and (self.subject is None or envelope.subject == self.subject)
            and said.partition[0] in self.topics
            and said.document is not None
        )


def filter_of(types: Iterable[str], topics: Iterable[str], subject: str | None = None) -> Filter:
    """Return the filter that names stand for: of topics in short or in full, of events with or without their noun.

    Without topics: those of the types, without types all but the loud ones.

    Raises:
        InvalidInput: A name is not known, or a type is on none of the topics; the error names the nearest.
    """
    wanted_types = frozenset(_known(name, TYPES, "types", "event") for name in types)
    wanted_topics = frozenset(_known(name, NOUNS, "topics", "topic") for name in topics)
    of_types = frozenset(TOPIC_OF_TYPE[name] for name in wanted_types)
    for name in sorted(wanted_types):
        if wanted_topics and TOPIC_OF_TYPE[name] not in wanted_topics:
            message = f"{name} is on {TOPIC_OF_TYPE[name]}, which `topics` does not name; leave `topics` out"
            raise InvalidInput(f"types: {message}", [FieldError(path="types", message=message)])
    return Filter(topics=(of_types or wanted_topics or QUIET), types=wanted_types or None, subject=subject or None)


def merged(batches: Mapping[Partition, Sequence[Said]], unfinished: AbstractSet[Partition]) -> list[Said]:
    """Return records of several partitions in the order of time, as far as that order is certain.

    Of an ``unfinished`` partition more is to come; what is later than its last record here must wait for that.
    Within a partition the order is the log's, whatever its times say.
    """
    timed: list[tuple[int, Partition, int, Said]] = []
    until: int | None = None
    for partition, batch in batches.items():
        latest = 0
        for said in batch:
            latest = max(latest, said.timestamp)
            timed.append((latest, partition, said.offset, said))
        if partition in unfinished:
            until = latest if until is None else min(until, latest)
    timed.sort(key=lambda item: item[:3])
    return [said for time, _, _, said in timed if until is None or time <= until]


def _known(name: str, table: Mapping[str, str], field: str, what: str) -> str:
    if name in table.values():
        return name
    if name in table:
        return table[name]
    hint = nearest(name, [*table, *table.values()])
    message = f"there is no {what} {name[:80]!r}{hint}; there are {', '.join(table)}"
    raise InvalidInput(f"{field}: {message}", [FieldError(path=field, message=message)])
