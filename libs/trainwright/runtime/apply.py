"""The consumer's heart: apply records to a store, once, in one transaction. No Kafka in here.

``apply`` is all or nothing. ``apply_each`` is what follows when that raised: the same records one by one, each
tried five times, the one that keeps failing put aside as a dead letter. A store that cannot answer is never a
record's fault: ``StoreUnavailable`` passes through and nothing is skipped.
"""

import base64
import hashlib
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import Any, Protocol

from pydantic import ValidationError

from trainwright import crash
from trainwright.contracts.base import Event, Newer, Once, iso
from trainwright.contracts.dead import DeadLetter, DeadLettered
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import EVENT_TYPES, PULSE, Topic
from trainwright.runtime.clock import Clock, derived_id
from trainwright.runtime.envelope import Cause, Envelope, Poison, Record, from_headers
from trainwright.runtime.outbox import RECORD_LIMIT, Emitted, emit
from trainwright.runtime.telemetry.events import event_attributes
from trainwright.runtime.telemetry.figures import count, observe_all
from trainwright.runtime.telemetry.names import DEAD_LETTERED, EVENTS, HANDLER_FAILURES, HANDLER_SECONDS, PROCESS
from trainwright.runtime.telemetry.tracing import TRACE, TRACING, Attributes
from trainwright.storage.document import Collection, DocumentStore, Range, Transaction

logger = logging.getLogger(__name__)

TRIES = 5
TRACED_FOR = timedelta(hours=1)
"""Age of an event from which applying it is no part of its trace: a new or rebuilt service reads years of them."""
DEAD_LETTERS = Collection("dead_letters", indexes=("time",))
LETTERS_KEPT = timedelta(days=30)
"""As long as their events are on the topic; whoever puts a record aside forgets the letters from before."""
FORGOTTEN_AT_ONCE = 200
SHARED = 16 * 1024
"""Bytes of a record up to which services of one process share what was parsed: some MB for all of them."""
CARRIED = 256 * 1024
"""Characters of a record that a DeadLettered event carries; the store's own document has all of it."""


class Handler(Protocol):
    """What a service does about one kind of event: change its store, say what follows."""

    async def __call__(self, event: Any, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]: ...


@dataclass(frozen=True, slots=True, eq=False)
class Newest:
    """A handler that folds the owner's whole document, whatever the event is called: of several events about one
    subject that are applied together it is given the newest only.
    """

    fold: Handler

    async def __call__(self, event: Any, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
        return await self.fold(event, tx=tx, clock=clock)


Reactions = Mapping[Topic, Mapping[type[Event], Handler]]
FollowUp = Callable[[Transaction], Awaitable[Callable[[], None] | None]]
"""What a service does about all that a turn changed, in the turn's own transaction; what it returns, if anything,
is called once that is committed. Its failure is the turn's: it must not fail again when the records are tried one
by one."""


@dataclass(frozen=True, slots=True)
class Inbound:
    """One service's side of one topic."""

    service: str
    topic: Topic
    handlers: Mapping[type[Event], Handler]
    store: DocumentStore
    clock: Clock
    follow_up: FollowUp | None = None


async def apply(records: Sequence[Record], inbound: Inbound) -> None:
    """Apply records in order in one transaction; without one that somebody here wants there is none.

    Raises:
        StoreUnavailable: The store cannot answer; nothing was applied.
        Exception: A record could not be applied; nothing was.
    """
    done, wanted, committed = _Done(), list[_Opened](), None
    for record in records:
        if not _is_foreign(record, inbound):
            envelope, kind = _kind_of(record)
            if kind is not None:
                wanted.append((record, kind, envelope))
    if foreign := len(records) - len(wanted):
        done.passed_over["other", "foreign"] = foreign
    if wanted:
        async with inbound.store.transaction() as tx:
            for record, kind, envelope in _not_superseded(wanted, inbound, done):
                await _apply_one(_read(record, kind, envelope), envelope, inbound, tx, done)
            if inbound.follow_up is not None:
                committed = await inbound.follow_up(tx)
    if committed is not None:
        committed()
    done.count(inbound)


async def apply_each(records: Sequence[Record], inbound: Inbound) -> None:
    """Apply records one by one; put aside those that keep failing.

    Raises:
        StoreUnavailable: The store cannot answer; records before this one were applied.
    """
    for record in records:
        error, tries = await _try(record, inbound)
        if error is not None:
            await _bury(record, inbound, error, tries)


def open_record(record: Record) -> tuple[Envelope, Event | None]:
    """Return a record's envelope and event; None for an event of a kind that this version does not know.

    Raises:
        Poison: The record can never be read.
    """
    envelope, kind = _kind_of(record)
    return envelope, None if kind is None else _read(record, kind, envelope)


_Opened = tuple[Record, type[Event], Envelope]


def _not_superseded(wanted: Sequence[_Opened], inbound: Inbound, done: "_Done") -> list[_Opened]:
    """Leave out what a newer record of these says anew to a handler that folds; nothing of it is read."""
    newest: dict[tuple[Handler, str], int] = {}
    left: list[_Opened] = []
    for opened in reversed(wanted):
        _, kind, envelope = opened
        handler, version = inbound.handlers[kind], envelope.version
        if isinstance(handler, Newest) and version is not None:
            if version < newest.get((handler, envelope.subject), 0):
                done.passed_over[kind.__name__, "superseded"] += 1
                continue
            newest[handler, envelope.subject] = version
        left.append(opened)
    return left[::-1]


_KINDS = {name.encode(): kind for name, kind in EVENT_TYPES.items()}


def _is_foreign(record: Record, inbound: Inbound) -> bool:
    """Return whether nobody here wants events of this known kind; nothing else of such a record is read."""
    kind = _KINDS.get(next((value for name, value in record.headers if name == "ce_type"), b""))
    return kind is not None and kind not in inbound.handlers


def _kind_of(record: Record) -> tuple[Envelope, type[Event] | None]:
    envelope = from_headers(record.headers)
    kind = EVENT_TYPES.get(envelope.type)
    if kind is None:
        known_otherwise = any(name.rpartition(".")[0] == envelope.type.rpartition(".")[0] for name in EVENT_TYPES)
        if known_otherwise:
            raise Poison(f"{envelope.type}: this major version is not known here")
    return envelope, kind


def _read(record: Record, kind: type[Event], envelope: Envelope) -> Event:
    if record.value is None:
        raise Poison("the record has no value")
    if len(record.value) > RECORD_LIMIT:
        raise Poison(f"the record has {len(record.value)} bytes; {RECORD_LIMIT} are allowed")
    try:
        return (_shared if len(record.value) <= SHARED else _parsed)(kind, record.value)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        raise Poison(f"{envelope.type} does not fit its schema: {path or 'data'}: {first['msg']}") from error


def _parsed(kind: type[Event], value: bytes) -> Event:
    return kind.model_validate_json(value)


# Services of one process read the same records within moments; events are frozen.
_shared = lru_cache(maxsize=256)(_parsed)


async def is_news(event: Event, tx: Transaction, scope: str) -> bool:
    """Return whether an event has not been applied yet, and note it as applied."""
    guard = event.guard
    if isinstance(guard, Newer):
        return await tx.newer(scope, guard.subject, guard.order)
    if isinstance(guard, Once):
        return await tx.first_time(f"{scope}/{guard.key}")
    return True


@dataclass(slots=True)
class _Done:
    """What one transaction has done, counted once it is committed."""

    took: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    passed_over: dict[tuple[str, str], int] = field(default_factory=lambda: defaultdict(int))

    def count(self, inbound: Inbound) -> None:
        labels = inbound.service, inbound.topic.name
        for event, times in self.took.items():
            count(EVENTS, *labels, event, "applied", by=len(times))
            observe_all(HANDLER_SECONDS, *labels, event, values=times)
        for (event, outcome), number in self.passed_over.items():
            count(EVENTS, *labels, event, outcome, by=number)


async def _apply_one(event: Event, envelope: Envelope, inbound: Inbound, tx: Transaction, done: _Done) -> None:
    name = type(event).__name__
    if not await is_news(event, tx, inbound.topic.name):
        done.passed_over[name, "repeat"] += 1
        return
    began, span, trace = inbound.clock.monotonic(), None, envelope.traceparent
    if TRACING.is_on and not _is_history(envelope, inbound.clock):
        about = partial(_about, envelope, inbound.topic)
        span = TRACING.begin(PROCESS, inbound.service, f"process {name}", trace, about)
        trace = span.traceparent
    TRACE.set(trace)
    try:
        emitted = await inbound.handlers[type(event)](event, tx=tx, clock=inbound.clock)
        crash.point("apply.handled")
        await emit(tx, emitted, source=inbound.service, cause=Cause(envelope.id, trace), clock=inbound.clock)
    except BaseException as error:
        if span is not None:
            span.end(error)
        raise
    if span is not None:
        span.end()
    done.took[name].append(inbound.clock.monotonic() - began)


def _is_history(envelope: Envelope, clock: Clock) -> bool:
    """Return whether a record is read to learn what once was: its trace was told when it happened."""
    try:
        return clock.now() - datetime.fromisoformat(envelope.time) > TRACED_FOR
    except (ValueError, TypeError):  # others may write times of their own
        return False


def _about(envelope: Envelope, topic: Topic) -> Attributes:
    return event_attributes(
        "process",
        topic.name,
        id=envelope.id,
        subject=envelope.subject,
        version=envelope.version,
        attempt=envelope.attempt,
    )


async def _try(record: Record, inbound: Inbound) -> tuple[Exception | None, int]:
    last: Exception | None = None
    for number in range(1, TRIES + 1):
        try:
            await apply([record], inbound)
            return None, number
        except StoreUnavailable:
            raise
        except Poison as error:
            count(HANDLER_FAILURES, inbound.service, inbound.topic.name)
            return error, number
        except Exception as error:
            last = error
            count(HANDLER_FAILURES, inbound.service, inbound.topic.name)
            logger.warning("try %d of %s@%d failed", number, record.topic, record.offset, exc_info=True)
            if number < TRIES:
                await inbound.clock.sleep(0.02 * 2**number)
    return last, TRIES


async def _bury(record: Record, inbound: Inbound, error: Exception, tries: int) -> None:
    where = f"{record.topic}/{record.partition}@{record.offset}"
    logger.error("%s: record %s put aside: %s", inbound.service, where, error)
    count(DEAD_LETTERED, inbound.service, inbound.topic.name)
    if inbound.topic is PULSE:  # superseded kinds: the next one says it again
        return
    letter = dead_letter(record, inbound, error, tries)
    cause = Cause(derived_id(inbound.service, where))
    async with inbound.store.transaction() as tx:
        await tx.put(DEAD_LETTERS.name, letter.dead_id, letter.model_dump(mode="json"))
        old = {"time": Range(lt=iso(letter.time - LETTERS_KEPT))}
        for found in (await tx.find(DEAD_LETTERS.name, old, sort="time", limit=FORGOTTEN_AT_ONCE)).items:
            await tx.delete(DEAD_LETTERS.name, found["dead_id"])
        events = [DeadLettered(letter=carried(letter))]
        await emit(tx, events, source=inbound.service, cause=cause, clock=inbound.clock)
    crash.point("apply.buried")


def dead_letter(record: Record, inbound: Inbound, error: Exception, tries: int) -> DeadLetter:
    """Return a record as a dead letter of this consumer; the same record has the same identifier."""
    value = record.value
    return DeadLetter(
        dead_id=derived_id(inbound.service, record.topic, record.partition, record.offset),
        consumer=inbound.service,
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        time=inbound.clock.now(),
        key_b64=None if record.key is None else base64.b64encode(record.key).decode(),
        headers=[(name, base64.b64encode(raw or b"").decode()) for name, raw in record.headers],
        value_b64=None if value is None else base64.b64encode(value).decode(),
        error=f"{type(error).__name__}: {error}"[:4000],
        tries=tries,
    )


def carried(letter: DeadLetter) -> DeadLetter:
    """Return a letter that fits in a record: what is too large stays in the store's own document."""
    left_out: dict[str, Any] = {}
    if letter.value_b64 is not None and len(letter.value_b64) > CARRIED:
        value = base64.b64decode(letter.value_b64)
        left_out |= {"value_b64": None, "value_sha256": hashlib.sha256(value).hexdigest()}
    if letter.key_b64 is not None and len(letter.key_b64) > CARRIED:
        left_out["key_b64"] = None
    if sum(len(name) + len(text) for name, text in letter.headers) > CARRIED:
        left_out["headers"] = []
    return letter.model_copy(update=left_out)
