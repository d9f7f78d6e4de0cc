"""The consumer on a real broker: exact offsets, nothing skipped, and no outage that it does not outlive."""

import asyncio
import os
import shutil
import signal
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.harness import eventually
from tests.integration.runtime_parts import (
    PARTITION,
    client_of,
    committed,
    delete,
    own_store,
    running,
    tell_raw,
    with_header_name,
)
from tests.kafka_fixture import own_broker
from tests.runtime_kit import COLLECTIONS, Counting, record, task_event, versions_seen
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import TASK
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime import consumer
from trainwright.runtime.apply import DEAD_LETTERS
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.envelope import Reread
from trainwright.runtime.health import Health
from trainwright.runtime.kafka import Kafka, stop_bounded
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore

GROUP = "trainwright.counting.task"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaProcess]:
    with own_broker(tmp_path / "kafka") as made:
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with own_store(tmp_path) as made:
        yield made


async def tell(broker: KafkaProcess, records: Sequence[Reread]) -> int:
    """Put records on the log; return the offset after the last one."""
    await client_of(broker.bootstrap).ensure_topics()
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        acks = [await producer.send(TASK.name, value=r.value, key=r.key, headers=r.headers) for r in records]
        return max(int(ack.offset) for ack in await asyncio.gather(*acks)) + 1


def loop_of(service: Counting, store: Any, broker: KafkaProcess) -> ConsumerLoop:
    return ConsumerLoop(service.inbound(store, SystemClock()), client_of(broker.bootstrap))


async def is_committed(broker: KafkaProcess, end: int) -> None:
    """Wait until the group has committed everything."""

    async def reached() -> bool:
        return await committed(broker.bootstrap, GROUP, TASK.name) == end

    await eventually(reached, within=60, what=f"offset {end} to be committed", every=0.2)


async def test_what_was_on_the_log_before_the_first_start_is_applied(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    end = await tell(broker, [record(task_event(n)) for n in range(1000)])
    async with running(loop_of(Counting(), store, broker).run()):
        await is_committed(broker, end)
    assert len(await versions_seen(store)) == 1000


async def test_every_ending_commits_exactly_what_was_applied(broker: KafkaProcess, store: SqliteStore) -> None:
    """Good records, poison, failing records, unknown kinds: afterwards the group stands behind the last one."""
    service = Counting(fail_on={"task-000000000003": 99, "task-000000000007": 2})
    poison = Reread(TASK.name, 0, 0, b"k", b"broken", record(task_event(1)).headers)
    unknown = record(task_event(5), headers={"ce_type": b"trainwright.task.TaskPraised.v1"})
    records = [record(task_event(n)) for n in range(10)]
    end = await tell(
        broker, [*records[:4], poison, unknown, *records[4:], Reread(TASK.name, 0, 0, b"k", None, [])]
    )
    async with running(loop_of(service, store, broker).run()):
        await is_committed(broker, end)
    assert sorted(await versions_seen(store)) == [f"task-{n:012x}" for n in range(10) if n != 3]
    assert await store.count(DEAD_LETTERS.name) == 3
    again = Counting()
    async with running(loop_of(again, store, broker).run()):
        await is_committed(broker, end)
        await asyncio.sleep(1)
    assert again.calls == [], "a second start has nothing to read again"


@pytest.mark.parametrize(("at_once", "between", "commit_every"), [(True, 3, 0.1), (False, 3, 0.1), (True, 0, 3.0)])
async def test_a_record_that_the_client_cannot_even_read_is_put_aside(
    broker: KafkaProcess,
    store: SqliteStore,
    at_once: bool,
    between: int,
    commit_every: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its poll fails as a whole; what came before it is not lost, and the next such record, however soon it comes,
    does not have the client begin before this one again."""
    monkeypatch.setattr(consumer, "COMMIT_EVERY", commit_every)
    await tell(broker, [record(task_event(n)) for n in range(5)])
    async with running(*[] if at_once else [loop_of(Counting(), store, broker).run()]):
        await tell_raw(broker, with_header_name(b"\xff\xfe\xff"))
        if between:
            await tell(broker, [record(task_event(n)) for n in range(5, 5 + between)])
        await tell_raw(broker, with_header_name(b"\xff"))
        end = await tell(broker, [record(task_event(n)) for n in range(5 + between, 10)])
        async with running(*[loop_of(Counting(), store, broker).run()] if at_once else []):
            await is_committed(broker, end)
    assert await versions_seen(store) == {f"task-{n:012x}": [1] for n in range(10)}
    letters = (await store.find(DEAD_LETTERS.name, sort="time")).items
    assert sorted(letter["offset"] for letter in letters) == [5, 6 + between]


class Sick(SqliteStore):
    """SQLite that refuses to be written while it is sick."""

    sick = False

    def transaction(self, *, durable: bool = True) -> Any:
        if self.sick:
            raise StoreUnavailable("the disk is full")
        return super().transaction(durable=durable)


async def test_a_store_that_is_down_is_waited_for_and_nothing_is_skipped(
    broker: KafkaProcess, tmp_path: Path
) -> None:
    store = Sick(tmp_path / "sick.db", COLLECTIONS)
    await store.open()
    service = Counting()
    loop = loop_of(service, store, broker)
    relay = Relay("counting", store, client_of(broker.bootstrap), SystemClock())
    health = Health("counting", store, relay, [loop])
    first = await tell(broker, [record(task_event(n)) for n in range(20)])
    async with running(loop.run(), relay.run()):
        await is_committed(broker, first)
        await eventually(lambda: relay.connected and loop.connected, within=10, what="both to be connected")
        assert (await health.ready()).status == "ok"
        store.sick = True
        poison = Reread(TASK.name, 0, 0, b"k", b"broken", record(task_event(1)).headers)
        end = await tell(broker, [poison, *[record(task_event(n)) for n in range(20, 60)]])
        await eventually(lambda: not loop.store_ok, within=20, what="the store to be missed")
        assert (await health.ready()).status == "down"
        await asyncio.sleep(1)
        assert await committed(broker.bootstrap, GROUP, TASK.name) == first
        store.sick = False
        await is_committed(broker, end)
        assert (await health.ready()).status == "ok"
    assert len(await versions_seen(store)) == 60
    assert await store.count(DEAD_LETTERS.name) == 1
    await store.close()


async def test_many_failing_records_do_not_hold_a_poll_longer_than_its_budget(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    """What is left of a poll is read again: the offsets of the first part are committed meanwhile."""
    service = Counting(fail_on={f"task-{n:012x}": 99 for n in range(12)})
    end = await tell(broker, [record(task_event(n)) for n in range(30)])
    async with running(loop_of(service, store, broker).run()):

        async def part_is_committed() -> bool:
            return 0 < (await committed(broker.bootstrap, GROUP, TASK.name) or 0) < end

        await eventually(part_is_committed, within=30, what="a part to be committed", every=0.2)
        await is_committed(broker, end)
    assert sorted(await versions_seen(store)) == [f"task-{n:012x}" for n in range(12, 30)]
    assert await store.count(DEAD_LETTERS.name) == 12
    assert all(service.calls.count(f"task-{n:012x}") == 1 for n in range(13, 30))


async def test_readiness_notices_a_silent_broker_and_the_end_of_silence(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    loop = loop_of(Counting(), store, broker)
    end = await tell(broker, [record(task_event(0))])
    assert broker.pid is not None
    async with running(loop.run()):
        await is_committed(broker, end)
        assert loop.connected
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await eventually(lambda: not loop.connected, within=10, what="the silence to be noticed")
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await eventually(lambda: loop.connected, within=20, what="the broker to be heard again")
        end = await tell(broker, [record(task_event(1))])
        await is_committed(broker, end)
    assert len(await versions_seen(store)) == 2


async def test_kill_9_of_the_broker_is_outlived(broker: KafkaProcess, store: SqliteStore) -> None:
    loop = loop_of(Counting(), store, broker)
    end = await tell(broker, [record(task_event(n)) for n in range(100)])
    async with running(loop.run()):
        await is_committed(broker, end)
        broker.kill()
        await eventually(lambda: not loop.connected, within=10, what="the loss to be noticed")
        broker.start()
        broker.wait_ready()
        end = await tell(broker, [record(task_event(n)) for n in range(100, 200)])
        await is_committed(broker, end)
    assert await versions_seen(store) == {f"task-{n:012x}": [1] for n in range(200)}


async def test_two_members_of_a_group_share_partitions_and_lose_nothing_when_one_leaves(
    broker: KafkaProcess, tmp_path: Path
) -> None:
    production = Kafka(RuntimeSettings(kafka=broker.bootstrap, topics="production", static_members=False))
    await production.ensure_topics()
    services = [Counting(), Counting()]

    async def tell_all(numbers: range) -> None:
        async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
            for n in numbers:
                r = record(task_event(n))
                await producer.send(TASK.name, value=r.value, key=r.key, headers=r.headers)

    def applied() -> set[str]:
        return {call for service in services for call in service.calls}

    async with own_store(tmp_path / "one") as one, own_store(tmp_path / "two") as two:
        first = ConsumerLoop(services[0].inbound(one, SystemClock()), production)
        second = ConsumerLoop(services[1].inbound(two, SystemClock()), production)
        async with running(first.run()):
            async with running(second.run()):
                await tell_all(range(300))
                await eventually(lambda: len(applied()) == 300, within=40, what="300 events to be applied")
                await eventually(lambda: second.connected, within=10, what="the second to be connected")
            await tell_all(range(300, 400))
            await eventually(lambda: len(applied()) == 400, within=40, what="the rest to be applied")
    assert len(applied()) == 400


async def test_a_log_that_was_lost_is_read_from_its_new_beginning(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    """A position remembered from the old log must not hide what the new one holds below it."""
    loop = loop_of(Counting(), store, broker)
    end = await tell(broker, [record(task_event(n)) for n in range(50)])
    async with running(loop.run()):
        await is_committed(broker, end)
        broker.kill()
        shutil.rmtree(broker.folder / "log")
        again = KafkaProcess(broker.folder, port=broker.port, controller_port=broker.controller_port)
        with again:
            await tell(again, [record(task_event(n)) for n in range(1000, 1100)])

            async def all_applied() -> bool:
                return len(await versions_seen(store)) == 150

            await eventually(all_applied, within=60, what="the new log to be applied whole", every=0.3)


async def test_a_topic_that_was_made_anew_behind_a_consumer_s_back_is_read_from_its_beginning(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    """It was cut off meanwhile: its client goes on in the new topic where it was in the old one."""
    kafka = client_of(broker.bootstrap)
    loop = ConsumerLoop(Counting().inbound(store, SystemClock()), kafka, compare_every=1)
    end = await tell(broker, [record(task_event(n)) for n in range(20)])

    async def anew() -> None:
        await delete(broker.bootstrap, TASK.name)
        await tell(broker, [record(task_event(n)) for n in range(100, 150)])

    async with running(loop.run()):
        await is_committed(broker, end)
        await eventually(lambda: loop._log, within=10, what="the consumer to know its topic")
        beside = threading.Thread(target=asyncio.run, args=[anew()])
        beside.start()
        beside.join()  # meanwhile nothing of this loop has a turn

        async def all_applied() -> bool:
            return len(await versions_seen(store)) == 70

        await eventually(all_applied, within=30, what="the new topic to be applied whole", every=0.2)
        await is_committed(broker, 50)


async def test_a_store_whose_tables_are_away_has_the_client_built_anew_and_skips_nothing(
    broker: KafkaProcess, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Not an engine that is away: statements fail in themselves, of what is applied and of its dead letter."""
    tables = {"c_seen": "aside", f"c_{DEAD_LETTERS.name}": "aside_too"}

    async def rename(names: dict[str, str]) -> None:
        async with store.transaction() as tx:
            for old, new in names.items():
                tx.connection.execute(f'ALTER TABLE "{old}" RENAME TO "{new}"')

    await rename(tables)
    end = await tell(broker, [record(task_event(n)) for n in range(3)])
    async with running(loop_of(Counting(), store, broker).run()):
        await eventually(lambda: "the client broke" in caplog.text, within=30, what="the consumer to fail")
        assert not await committed(broker.bootstrap, GROUP, TASK.name)
        await rename({new: old for old, new in tables.items()})
        await is_committed(broker, end)
    assert await versions_seen(store) == {f"task-{n:012x}": [1] for n in range(3)}
    assert await store.count(DEAD_LETTERS.name) == 0


async def test_how_far_a_consumer_is_behind_is_not_known_once_its_partition_was_taken_away(
    kafka: str, store: SqliteStore
) -> None:
    await client_of(kafka).ensure_topics()
    loop = ConsumerLoop(Counting().inbound(store, SystemClock()), client_of(kafka))
    async with client_of(kafka).producer() as producer:
        await producer.send_and_wait(TASK.name, b"{}")
    async with client_of(kafka).reader() as consumer:
        consumer.assign([PARTITION])
        await consumer.seek_to_beginning(PARTITION)
        await consumer.getone()
        loop._consumer = consumer
        assert await loop.lag() is not None
        back = asyncio.create_task(consumer.seek_to_beginning(PARTITION))
        await asyncio.sleep(0)
        asking = asyncio.create_task(loop.lag())
        await asyncio.sleep(0)
        consumer.unsubscribe()
        assert await asking is None
        await back


async def test_a_client_that_is_stopped_while_it_backs_off_does_not_cancel_its_owner(kafka: str) -> None:
    await client_of(kafka).ensure_topics()
    times = {"fetch_max_wait_ms": 5000, "request_timeout_ms": 800, "retry_backoff_ms": 3000}
    consumer = AIOKafkaConsumer(TASK.name, bootstrap_servers=kafka, **times)
    await consumer.start()
    try:
        await eventually(lambda: consumer.assignment(), within=10, what="an assignment")
        await asyncio.wait_for(consumer.position(PARTITION), 10)
        await asyncio.sleep(1.2)  # a fetch has timed out; the next one waits
    finally:
        await stop_bounded(consumer)
