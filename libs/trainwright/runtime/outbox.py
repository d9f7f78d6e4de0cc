"""Events and effects on their way out: rows that are saved in the same transaction as the state.

Nothing here talks to Kafka; ``relay.py`` publishes what this saves.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from trainwright.contracts.base import Event
from trainwright.contracts.errors import OutboxFull, TooLarge
from trainwright.contracts.topics import TOPIC_OF
from trainwright.runtime.clock import Clock, derived_id
from trainwright.runtime.envelope import Cause, to_headers, wrap
from trainwright.storage.document import DocumentStore, OutboxRow, Transaction

CAP = 100_000
"""Unsent rows over which a service accepts no more requests."""

RECORD_LIMIT = 900 * 1024
"""Bytes of one record; Kafka refuses more than 1 MiB with its headers."""


@dataclass(frozen=True, slots=True)
class Effect:
    """Something to do outside of the store after the commit; ``key`` makes a repeat harmless."""

    name: str
    key: str
    arguments: dict[str, Any]


Emitted = Event | Effect


def event_row(event: Event, *, id: str, source: str, clock: Clock, traceparent: str | None) -> OutboxRow:
    """Return an event as an outbox row.

    Raises:
        TooLarge: The event would not fit in a record.
    """
    value = event.model_dump_json().encode()
    if len(value) > RECORD_LIMIT:
        raise TooLarge(f"{type(event).__name__} of {event.subject} has {len(value)} bytes; {RECORD_LIMIT} fit")
    envelope = wrap(event, id=id, source=source, time=clock.now(), traceparent=traceparent)
    return OutboxRow(id, "event", TOPIC_OF[type(event)].name, event.subject, to_headers(envelope), value)


async def emit(tx: Transaction, emitted: Sequence[Emitted], *, source: str, cause: Cause, clock: Clock) -> None:
    """Save events and effects with the state; identifiers derive from the cause: a re-run repeats them."""
    rows = []
    for number, item in enumerate(emitted):
        if isinstance(item, Effect):
            headers = [("traceparent", cause.traceparent)] if cause.traceparent else []
            rows.append(OutboxRow(item.key, "effect", item.name, item.key, headers, orjson.dumps(item.arguments)))
        else:
            id = derived_id(cause.id, item.type_name(), number)
            rows.append(event_row(item, id=id, source=source, clock=clock, traceparent=cause.traceparent))
    if rows:
        await tx.add_outbox(rows)


def announcement(event: Event, clock: Clock) -> Cause:
    """Return the cause of saying an event again: the same within one minute, another one after it."""
    minute = int(clock.now().timestamp() // 60)
    return Cause(derived_id(event.subject, event.aggregate_version, event.type_name(), minute))


async def accept(store: DocumentStore) -> None:
    """Check that one more request may be accepted.

    Raises:
        OutboxFull: Too many events wait for Kafka.
    """
    if await store.outbox_depth() >= CAP:
        raise OutboxFull(f"{CAP} events wait for Kafka; try again when it answers")
