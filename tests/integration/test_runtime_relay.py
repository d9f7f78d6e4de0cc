"""The relay on a real broker: in order, at least once, through every way in which Kafka goes and comes back."""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.integration.runtime_parts import (
    client_of,
    configs_of,
    delete,
    log_of,
    own_store,
    running,
    say,
)
from tests.kafka_fixture import own_broker
from tests.runtime_kit import task_event
from trainwright.contracts.pulse import SchedulerProbed
from trainwright.contracts.topics import PULSE, TASK, TOPICS
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.apply import open_record
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.kafka import topic_configs
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.relay import Relay
from trainwright.storage.sqlite import SqliteStore


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaProcess]:
    with own_broker(tmp_path / "kafka") as made:
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with own_store(tmp_path) as made:
        yield made


def relay_of(store: SqliteStore, broker: KafkaProcess) -> Relay:
    return Relay("counting", store, client_of(broker.bootstrap), SystemClock())


async def sent(store: SqliteStore) -> None:
    """Wait until nothing is left to send."""

    async def nothing_left() -> bool:
        return await store.outbox_depth() == 0

    await eventually(nothing_left, within=60, what="the outbox to be empty")


async def subjects(broker: KafkaProcess) -> list[str]:
    """Return who the events on the log are about, each where it came first."""
    return list(dict.fromkeys([record.key.decode() for record in await log_of(broker.bootstrap, TASK.name)]))


def named(numbers: range) -> list[str]:
    return [f"task-{number:012x}" for number in numbers]


async def test_rows_go_out_once_in_order_with_their_envelopes(broker: KafkaProcess, store: SqliteStore) -> None:
    relay = relay_of(store, broker)
    async with running(relay.run()):
        for start in range(0, 1200, 300):
            await say(store, *[task_event(n) for n in range(start, start + 300)])
        await sent(store)
        await eventually(lambda: relay.connected, within=20, what="the relay to be connected")
    records = await log_of(broker.bootstrap, TASK.name)
    assert [record.key.decode() for record in records] == named(range(1200))
    envelope, event = open_record(records[7])
    assert (envelope.subject, envelope.source) == ("task-000000000007", "/services/counting")
    assert event == task_event(7)
    position = await store.log_position()
    assert position.cluster_id == broker.cluster_id()
    assert position.offsets == {f"{TASK.name}/0": 1199}


async def test_a_row_is_on_the_log_at_once(broker: KafkaProcess, store: SqliteStore) -> None:
    """Woken by the commit, not by looking every so often: far below the 5 s of an idle relay's look."""
    async with running(relay_of(store, broker).run()):
        await say(store, task_event(0))
        await sent(store)
        waits = []
        for number in range(1, 6):
            await asyncio.sleep(0.3)
            started = time.monotonic()
            await say(store, task_event(number))
            await sent(store)
            waits.append(time.monotonic() - started)
        assert max(waits) < 2.5, waits


async def test_without_kafka_rows_wait_and_go_out_when_it_comes(broker: KafkaProcess, store: SqliteStore) -> None:
    broker.kill()
    relay = relay_of(store, broker)
    async with running(relay.run()):
        await say(store, *[task_event(n) for n in range(50)])
        await asyncio.sleep(1)
        assert (relay.connected, await store.outbox_depth()) == (False, 50)
        broker.start()
        await sent(store)
        await eventually(lambda: relay.connected, within=20, what="the relay to be connected")
    assert await subjects(broker) == named(range(50))


async def test_kill_9_of_the_broker_loses_nothing(broker: KafkaProcess, store: SqliteStore) -> None:
    async with running(relay_of(store, broker).run()):
        total = 0
        for _ in range(2):
            for _ in range(20):
                await say(store, *[task_event(n) for n in range(total, total + 40)])
                total += 40
                if total % 800 == 400:
                    broker.kill()
                    broker.start()
                await asyncio.sleep(0)
        await sent(store)
    found = await subjects(broker)
    assert sorted(found) == named(range(total))


async def test_a_paused_broker_is_waited_for(broker: KafkaProcess, store: SqliteStore) -> None:
    """Longer than an acknowledgement is waited for: the client is thrown away, the rows stay."""
    relay = relay_of(store, broker)
    assert broker.pid is not None
    async with running(relay.run()):
        await say(store, *[task_event(n) for n in range(100)])
        await sent(store)
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            await say(store, *[task_event(n) for n in range(100, 200)])
            await eventually(lambda: not relay.connected, within=25, what="the relay to notice")
            await say(store, *[task_event(n) for n in range(200, 300)])
            assert await store.outbox_depth() == 200
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        await sent(store)
    assert sorted(await subjects(broker)) == named(range(300))


@pytest.mark.parametrize("same_cluster", [False, True])
async def test_what_a_lost_log_held_goes_out_again(
    broker: KafkaProcess, store: SqliteStore, same_cluster: bool
) -> None:
    """Also to a relay that lives on, and had nothing to send when it happened; topics are made anew."""
    cluster_id = broker.cluster_id()
    async with running(relay_of(store, broker).run()):
        await say(store, *[task_event(n) for n in range(600)])
        await sent(store)
        broker.kill()
        shutil.rmtree(broker.folder / "log")
        again = KafkaProcess(
            broker.folder,
            port=broker.port,
            controller_port=broker.controller_port,
            cluster_id=cluster_id if same_cluster else None,
        )
        with again:
            await say(store, *[task_event(n) for n in range(600, 610)])
            await sent(store)

            async def everything_is_back() -> bool:
                return len(await subjects(again)) == 610

            await eventually(everything_is_back, within=30, what="kept rows to be sent again", every=0.5)


async def test_a_lost_log_is_noticed_by_a_relay_that_has_nothing_to_send(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    relay = Relay("counting", store, client_of(broker.bootstrap), SystemClock(), compare_every=1)
    async with running(relay.run()):
        await say(store, *[task_event(n) for n in range(20)])
        await sent(store)
        broker.kill()
        shutil.rmtree(broker.folder / "log")
        with KafkaProcess(broker.folder, port=broker.port, controller_port=broker.controller_port) as again:

            async def everything_is_back() -> bool:
                return await subjects(again) == named(range(20))

            await client_of(again.bootstrap).ensure_topics()
            await eventually(everything_is_back, within=40, what="kept rows to be sent again", every=0.5)


@pytest.mark.parametrize("others_write", [False, True])
async def test_what_a_deleted_topic_held_goes_out_again(
    broker: KafkaProcess, store: SqliteStore, others_write: bool
) -> None:
    """Also where others have since written beyond what this relay had sent; the topic has its settings again."""
    kafka = client_of(broker.bootstrap)
    relay = Relay("counting", store, kafka, SystemClock(), compare_every=1)

    async def all_are_there() -> bool:
        return {topic.name for topic in TOPICS} == (await kafka.topic_ids()).keys()

    async with running(relay.run()):
        await say(store, *[task_event(n) for n in range(20)])
        await sent(store)
        await delete(broker.bootstrap, PULSE.name)  # no relay ever writes it
        await eventually(all_are_there, within=20, what="the topic to be made anew", every=0.2)
        await delete(broker.bootstrap, TASK.name)
        if others_write:
            await kafka.ensure_topics()
            async with kafka.producer() as producer:
                for number in range(100, 200):
                    await producer.send(TASK.name, key=task_event(number).subject.encode())
                await producer.flush()

        async def everything_is_back() -> bool:
            return await all_are_there() and set(named(range(20))) <= set(await subjects(broker))

        await eventually(everything_is_back, within=40, what="kept rows to be sent again", every=0.5)
    async with kafka._admin() as admin:
        assert (await configs_of(admin, TASK)).items() >= topic_configs(TASK).items()


async def test_rows_that_were_sent_long_ago_are_swept_and_young_ones_kept(
    broker: KafkaProcess, store: SqliteStore
) -> None:
    await say(store, task_event(1), task_event(2))
    old, young = await store.outbox_pending("event", 2)
    now = SystemClock().now()
    async with store.transaction() as tx:
        await tx.mark_sent([old.seq], now - timedelta(hours=25))
        await tx.mark_sent([young.seq], now - timedelta(hours=23))
    async with running(relay_of(store, broker).run()):
        await say(store, task_event(3))
        await sent(store)
        await asyncio.sleep(0.3)
    assert await store.outbox_again(now - timedelta(days=2)) == 2


async def test_a_relay_that_cannot_use_its_store_s_tables_goes_on_when_it_can(
    kafka: str, store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    """Not an engine that is away: a statement that fails in itself, as after a restore of half a store."""
    subject = f"task-{time.time_ns() & 0xFFFFFFFFFFFF:012x}"
    await say(store, task_event(int(subject[5:], 16)))
    async with store.transaction() as tx:
        tx.connection.execute("ALTER TABLE outbox RENAME TO aside")
    async with running(Relay("counting", store, client_of(kafka), SystemClock()).run()):
        await eventually(lambda: "the relay's client broke" in caplog.text, within=30, what="the relay to fail")
        async with store.transaction() as tx:
            tx.connection.execute("ALTER TABLE aside RENAME TO outbox")
        await sent(store)
    assert [record.key.decode() for record in await log_of(kafka, TASK.name)].count(subject) == 1


async def test_pulses_go_out_newest_only_and_are_dropped_while_kafka_is_away(
    broker: KafkaProcess, caplog: pytest.LogCaptureFixture
) -> None:
    kafka, clock = client_of(broker.bootstrap), SystemClock()
    await kafka.ensure_topics()
    sender = PulseSender("scheduler", kafka, clock)

    class Unheard(SchedulerProbed):
        """Belongs on no topic."""

    def beat(seq: int, kind: type[SchedulerProbed] = SchedulerProbed) -> SchedulerProbed:
        return kind(scheduler="scheduler-0", seq=seq, time=clock.now())

    async def heard() -> list[int]:
        events = [open_record(record)[1] for record in await log_of(broker.bootstrap, PULSE.name)]
        return [event.seq for event in events if isinstance(event, SchedulerProbed)]

    async with running(sender.run()):
        sender.send("a", beat(0, Unheard))
        await eventually(lambda: "client broke; it is built anew" in caplog.text, within=20, what="the mistake")
        sender.send("a", beat(1))
        sender.send("a", beat(2))
        sender.send("b", beat(3))

        async def both() -> bool:
            return sorted(await heard()) == [2, 3]

        await eventually(both, within=20, what="the newest of each slot")
        broker.kill()
        for seq in range(4, 40):
            sender.send("a", beat(seq))
            await asyncio.sleep(0.02)
        broker.start()
        broker.wait_ready()

        async def newest() -> bool:
            sender.send("a", beat(99))
            return 99 in await heard()

        await eventually(newest, within=30, what="pulses to go on", every=0.5)
    assert len(await heard()) < 30
