"""Applying records: in order, all or nothing, once. What cannot be applied is put aside; a store is waited for."""

import asyncio
import base64
import random
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.runtime_kit import COLLECTIONS, Counting, FastClock, record, task_event, versions_seen
from trainwright.contracts.base import Event
from trainwright.contracts.command import StopAttempt
from trainwright.contracts.dead import DeadLetter, DeadLettered
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.topics import COMMAND, PULSE, TASK
from trainwright.runtime.apply import DEAD_LETTERS, TRIES, Inbound, Newest, apply, apply_each, open_record
from trainwright.runtime.clock import Clock, derived_id
from trainwright.runtime.envelope import Cause, Poison, Reread, from_headers
from trainwright.runtime.outbox import RECORD_LIMIT, Effect, Emitted, emit
from trainwright.storage.document import DocumentStore, Transaction
from trainwright.storage.sqlite import SqliteStore

TYPE = "trainwright.task.TaskReady.v1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "counting.db", COLLECTIONS)
    await made.open()
    yield made
    await made.close()


async def letters(store: DocumentStore) -> list[DeadLetter]:
    """Return the dead letters that are stored, by offset."""
    page = await store.find(DEAD_LETTERS.name)
    return sorted((DeadLetter.model_validate(item) for item in page.items), key=lambda letter: letter.offset)


def ids_of(numbers: Sequence[int]) -> list[str]:
    return [f"task-{number:012x}" for number in numbers]


class TestAllAtOnce:
    async def test_records_are_applied_in_order_and_answered_in_order(self, store: SqliteStore) -> None:
        service = Counting()
        records = [record(task_event(n), offset=n) for n in (3, 1, 2)]
        await apply(records, service.inbound(store, FastClock()))
        assert service.calls == ids_of([3, 1, 2])
        assert [row.key for row in await store.outbox_pending("event", 10)] == ids_of([3, 1, 2])

    async def test_one_that_fails_takes_all_with_it(self, store: SqliteStore) -> None:
        service = Counting(fail_on={ids_of([2])[0]: 1})
        records = [record(task_event(n), offset=n) for n in (1, 2, 3)]
        with pytest.raises(RuntimeError, match="cannot bear"):
            await apply(records, service.inbound(store, FastClock()))
        assert await versions_seen(store) == {}
        assert await store.outbox_depth() == 0
        await apply(records, service.inbound(store, FastClock()))
        assert len(await versions_seen(store)) == 3

    async def test_what_nobody_here_wants_does_not_even_open_the_store(self, tmp_path: Path) -> None:
        closed = SqliteStore(tmp_path / "closed.db", COLLECTIONS)
        inbound = replace(Counting().inbound(closed, FastClock()), handlers={})
        await apply([record(task_event(n), offset=n) for n in (1, 2)], inbound)

    async def test_repeats_and_stragglers_change_nothing(self, store: SqliteStore) -> None:
        """Any order, any number of times: each subject ends at its newest version, applied in rising order."""
        service = Counting()
        inbound = service.inbound(store, FastClock())
        chance = random.Random(7)
        events = [task_event(n, version) for n in range(4) for version in range(1, 9)] * 3
        chance.shuffle(events)
        while events:
            count = chance.randint(1, 7)
            batch, events = events[:count], events[count:]
            await apply([record(event) for event in batch], inbound)
        for versions in (await versions_seen(store)).values():
            assert versions == sorted(set(versions))
            assert versions[-1] == 8
        emitted = [row.id for row in await store.outbox_pending("event", 1000)]
        assert len(emitted) == len(set(emitted)) == len(service.calls)

    async def test_who_folds_is_given_the_newest_of_each_subject_and_of_a_turn(self, store: SqliteStore) -> None:
        service = Counting()
        inbound = service.inbound(store, FastClock())
        folding = replace(inbound, handlers={kind: Newest(handler) for kind, handler in inbound.handlers.items()})
        turn = [(1, 1), (2, 5), (1, 2), (3, 1), (1, 3), (2, 4)]
        await apply([record(task_event(n, version)) for n, version in turn], folding)
        assert service.calls == ids_of([2, 3, 1])
        assert await versions_seen(store) == dict(zip(ids_of([1, 2, 3]), [[3], [5], [1]], strict=True))

    async def test_what_is_superseded_by_what_cannot_be_read_is_applied(self, store: SqliteStore) -> None:
        service = Counting()
        inbound = service.inbound(store, FastClock())
        folding = replace(inbound, handlers={kind: Newest(handler) for kind, handler in inbound.handlers.items()})
        turn = [record(task_event(1, 1)), replace(record(task_event(1, 2)), value=b"broken")]
        with pytest.raises(Poison):
            await apply(turn, folding)
        await apply_each(turn, folding)
        assert await versions_seen(store) == {ids_of([1])[0]: [1]}
        assert len(await letters(store)) == 1

    async def test_a_wish_is_granted_once(self, store: SqliteStore) -> None:
        granted: list[int] = []

        async def on_stop(event: StopAttempt, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
            granted.append(event.revision)
            return []

        inbound = Inbound("agent", COMMAND, {StopAttempt: on_stop}, store, FastClock())
        wish = {"worker_id": "w", "incarnation": "i", "task_id": "t", "attempt": 1, "kind": "cancel"}
        first, changed = StopAttempt.model_validate(wish), StopAttempt.model_validate({**wish, "revision": 2})
        await apply([record(e) for e in (first, first, changed)], inbound)
        await apply([record(e, id="said again") for e in (changed, first)], inbound)
        assert granted == [1, 2]

    async def test_the_same_record_always_has_the_same_answer(self, store: SqliteStore, tmp_path: Path) -> None:
        """An answer's identifier derives from its cause, so a re-run after a crash repeats it."""
        other = SqliteStore(tmp_path / "other.db", COLLECTIONS)
        await other.open()
        incoming = record(task_event(1, 5), id="cause")
        for engine in (store, other):
            await apply([incoming], Counting().inbound(engine, FastClock()))
        (first,), (second,) = [await engine.outbox_pending("event", 10) for engine in (store, other)]
        assert first.id == second.id == derived_id("cause", "trainwright.queue.TaskQueued.v1", 0)
        assert dict(first.headers)["ce_id"] == first.id
        await other.close()

    async def test_the_trace_of_a_cause_goes_on_in_what_follows(self, store: SqliteStore) -> None:
        trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
        await apply([record(task_event(1), traceparent=trace)], Counting().inbound(store, FastClock()))
        (row,) = await store.outbox_pending("event", 10)
        assert dict(row.headers)["ce_traceparent"] == trace

    @pytest.mark.parametrize("kind", ["trainwright.task.TaskPraised.v1", "org.example.Something", "x"])
    async def test_kinds_that_a_later_version_adds_are_passed_over(self, store: SqliteStore, kind: str) -> None:
        service = Counting()
        later = record(task_event(1), headers={"ce_type": kind.encode()})
        await apply([later, record(task_event(2))], service.inbound(store, FastClock()))
        assert service.calls == ids_of([2])

    async def test_kinds_without_a_handler_are_passed_over_and_not_noted(self, store: SqliteStore) -> None:
        inbound = Inbound("idle", TASK, {}, store, FastClock())
        await apply([record(task_event(1))], inbound)
        assert await store.outbox_depth() == 0


def tombstone() -> Reread:
    made = record(task_event(2))
    return Reread(made.topic, 0, 0, made.key, None, made.headers)


def with_value(value: bytes) -> Reread:
    made = record(task_event(2))
    return Reread(made.topic, 0, 0, made.key, value, made.headers)


def without_task_id() -> bytes:
    document = orjson.loads(task_event(2).model_dump_json())
    del document["task"]["task_id"]
    return orjson.dumps(document)


POISONS = {
    "bad JSON": (with_value(b'{"task": '), "Invalid JSON"),
    "not UTF-8": (with_value(b"\xff\xfe\x00"), "Invalid JSON"),
    "no value": (tombstone(), "the record has no value"),
    "empty value": (with_value(b""), "Invalid JSON"),
    "another shape": (with_value(b'["task"]'), "TaskReady"),
    "a field is missing": (with_value(without_task_id()), "task.task_id: Field required"),
    "too large": (with_value(b" " * (RECORD_LIMIT + 1)), "921600 are allowed"),
    "no identifier": (record(task_event(2), headers={"ce_id": b""}), "ce_id is missing"),
    "no type": (record(task_event(2), headers={"ce_type": b""}), "ce_type is missing"),
    "no source": (record(task_event(2), headers={"ce_source": b""}), "ce_source is missing"),
    "header not UTF-8": (record(task_event(2), headers={"ce_subject": b"\xff\xfe"}), "ce_subject is not UTF-8"),
    "unknown major": (
        record(task_event(2), headers={"ce_type": b"trainwright.task.TaskReady.v2"}),
        "this major version is not known here",
    ),
    "no envelope": (Reread("trainwright.task.v1", 0, 0, None, b"{}", []), "ce_id is missing"),
}


class TestOneByOne:
    @pytest.mark.parametrize("name", POISONS)
    async def test_poison_is_put_aside_at_once_and_the_rest_applied(self, store: SqliteStore, name: str) -> None:
        poison, says = POISONS[name]
        service, clock = Counting(), FastClock()
        inbound = service.inbound(store, clock)
        aside = Reread(poison.topic, 3, 77, poison.key, poison.value, poison.headers)
        records = [record(task_event(1)), aside, record(task_event(3))]
        with pytest.raises(Poison, match=says):
            await apply(records, inbound)
        await apply_each(records, inbound)
        assert sorted(await versions_seen(store)) == ids_of([1, 3])
        (letter,) = await letters(store)
        assert (letter.consumer, letter.topic, letter.partition, letter.offset) == ("counting", TASK.name, 3, 77)
        assert says in letter.error
        assert (letter.tries, clock.slept) == (1, []), "what can never be read is not tried again"
        assert letter.value_b64 == (None if poison.value is None else base64.b64encode(poison.value).decode())

    async def test_a_record_that_keeps_failing_is_put_aside_after_five_tries(self, store: SqliteStore) -> None:
        service, clock = Counting(fail_on={ids_of([2])[0]: 99}), FastClock()
        await apply_each([record(task_event(n), offset=n) for n in (1, 2, 3)], service.inbound(store, clock))
        assert service.calls == ids_of([1, *[2] * TRIES, 3])
        assert sorted(await versions_seen(store)) == ids_of([1, 3])
        (letter,) = await letters(store)
        assert (letter.offset, letter.tries) == (2, 5)
        assert letter.error == "RuntimeError: cannot bear task-000000000002"
        assert clock.slept == [0.04, 0.08, 0.16, 0.32]

    async def test_a_record_that_fails_at_first_is_applied_once(self, store: SqliteStore) -> None:
        service = Counting(fail_on={ids_of([2])[0]: 4})
        await apply_each([record(task_event(2))], service.inbound(store, FastClock()))
        assert await versions_seen(store) == {ids_of([2])[0]: [1]}
        assert await letters(store) == []

    async def test_a_dead_letter_is_an_event_too_and_a_repeat_changes_nothing(self, store: SqliteStore) -> None:
        inbound = Counting().inbound(store, FastClock())
        for _ in range(2):
            await apply_each([with_value(b"broken")], inbound)
        (letter,) = await letters(store)
        rows = await store.outbox_pending("event", 10)
        assert {row.topic for row in rows} == {"trainwright.dead.v1"}
        assert len({row.id for row in rows}) == 1, "read again after a crash, it has the same identifier"
        assert DeadLettered.model_validate_json(rows[0].value).letter.dead_id == letter.dead_id

    async def test_letters_from_before_their_events_are_kept_are_forgotten_by_the_next_one(
        self, store: SqliteStore
    ) -> None:
        clock = FastClock()
        inbound = Counting().inbound(store, clock)
        broken = with_value(b"broken")
        for offset, days in enumerate((0, 29, 2)):
            clock.slept.append(days * 86_400)
            await apply_each([replace(broken, offset=offset)], inbound)
        assert [letter.offset for letter in await letters(store)] == [1, 2]

    async def test_headers_come_back_as_they_were(self, store: SqliteStore) -> None:
        headers = [("ce_id", b"\xff"), ("other", b"\x00\x01"), ("other", b"twice")]
        await apply_each(
            [Reread(TASK.name, 0, 1, b"key\xff", b"x", headers)], Counting().inbound(store, FastClock())
        )
        (letter,) = await letters(store)
        assert [(name, base64.b64decode(value)) for name, value in letter.headers] == headers
        assert base64.b64decode(letter.key_b64 or "") == b"key\xff"

    @pytest.mark.parametrize("part", ["value", "headers", "key"])
    async def test_a_huge_record_is_kept_whole_but_its_event_fits_in_a_record(
        self, store: SqliteStore, part: str
    ) -> None:
        """Else putting it aside would fail, again and again, and nothing behind it would ever be applied."""
        huge = b"x" * 1_000_000
        aside = Reread(
            TASK.name,
            0,
            1,
            huge if part == "key" else None,
            huge if part == "value" else b"x",
            [("h", huge)] if part == "headers" else [],
        )
        await apply_each([aside, record(task_event(1))], Counting().inbound(store, FastClock()))
        (letter,) = await letters(store)
        assert len(letter.model_dump_json()) > 1_300_000
        (row, answer) = await store.outbox_pending("event", 10)
        assert len(row.value) < 400_000
        assert answer.topic == "trainwright.queue.v1"
        carried = DeadLettered.model_validate_json(row.value).letter
        assert (carried.value_sha256 is not None) == (part == "value")

    async def test_superseded_kinds_are_forgotten(self, store: SqliteStore) -> None:
        async def on_heartbeat(event: Event, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
            raise RuntimeError("no")

        beat = WorkerHeartbeat.model_validate(
            {"worker_id": "w", "incarnation": "i", "time": "2025-03-03T08:00:00Z"}
        )
        inbound = Inbound("counting", PULSE, {WorkerHeartbeat: on_heartbeat}, store, FastClock())
        await apply_each([record(beat, id="1")], inbound)
        assert await letters(store) == []
        assert await store.outbox_depth() == 0


class FailingStore(SqliteStore):
    """SQLite that refuses as many transactions as it is told, after as many that it grants."""

    granted = 0
    refused = 0

    def transaction(self, *, durable: bool = True) -> Any:
        if self.granted > 0:
            self.granted -= 1
        elif self.refused > 0:
            self.refused -= 1
            raise StoreUnavailable("the disk is full")
        return super().transaction(durable=durable)


class TestWithoutStore:
    async def test_a_store_that_does_not_answer_is_no_record_s_fault(self, tmp_path: Path) -> None:
        store = FailingStore(tmp_path / "failing.db", COLLECTIONS)
        await store.open()
        service = Counting()
        inbound = service.inbound(store, FastClock())
        records = [record(task_event(n), offset=n) for n in (1, 2, 3)]
        store.refused = 99
        with pytest.raises(StoreUnavailable):
            await apply(records, inbound)
        store.granted = 1
        with pytest.raises(StoreUnavailable):
            await apply_each(records, inbound)
        store.refused = 0
        assert list(await versions_seen(store)) == ids_of([1]), "what came before stays applied"
        assert await letters(store) == []
        await apply_each(records, inbound)
        assert await versions_seen(store) == {id: [1] for id in ids_of([1, 2, 3])}
        await store.close()

    async def test_poison_is_not_passed_before_its_letter_is_stored(self, tmp_path: Path) -> None:
        store = FailingStore(tmp_path / "failing.db", COLLECTIONS)
        await store.open()
        inbound = Counting().inbound(store, FastClock())
        store.granted, store.refused = 1, 1
        with pytest.raises(StoreUnavailable):
            await apply_each([with_value(b"broken")], inbound)
        assert await letters(store) == []
        await apply_each([with_value(b"broken")], inbound)
        assert len(await letters(store)) == 1
        await store.close()

    async def test_a_cancelled_apply_leaves_nothing(self, store: SqliteStore) -> None:
        started = asyncio.Event()

        async def slow(event: Event, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
            await tx.put("seen", event.subject, {"id": event.subject})
            started.set()
            await asyncio.sleep(60)
            return []

        inbound = Inbound("slow", TASK, {type(task_event()): slow}, store, FastClock())
        task = asyncio.create_task(apply([record(task_event(1))], inbound))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.count("seen") == 0
        await apply([record(task_event(1))], Counting().inbound(store, FastClock()))
        assert await store.count("seen") == 1


class TestEnvelopes:
    def test_headers_that_are_not_ours_do_not_matter(self) -> None:
        made = record(task_event(1), headers={"other": b"\xff", "ce_unknown": b"x", "ce_attempt": b"many"})
        envelope, event = open_record(made)
        assert isinstance(event, Event)
        assert (envelope.attempt, envelope.version) == (None, 1)

    @pytest.mark.parametrize("text", [b"9" * 5000, "²".encode(), b"-1", b"1.5", b""])
    def test_a_number_that_is_none_is_none(self, text: bytes) -> None:
        headers = [("ce_id", b"1"), ("ce_type", b"t"), ("ce_source", b"s"), ("ce_version", text)]
        assert from_headers(headers).version is None


async def test_what_is_emitted_is_in_order_whatever_its_kind(store: SqliteStore) -> None:
    effect = Effect("send", "key-1", {"to": "someone"})
    async with store.transaction() as tx:
        items: list[Emitted] = [task_event(1), effect, task_event(2)]
        await emit(tx, items, source="counting", cause=Cause("cause", "00-a-b-01"), clock=FastClock())
    events = await store.outbox_pending("event", 10)
    (stored,) = await store.outbox_pending("effect", 10)
    assert [row.id for row in events] == [derived_id("cause", TYPE, 0), derived_id("cause", TYPE, 2)]
    assert events[0].seq < stored.seq < events[1].seq
    assert (stored.id, stored.topic, orjson.loads(stored.value)) == ("key-1", "send", {"to": "someone"})
    assert dict(stored.headers) == {"traceparent": "00-a-b-01"}
