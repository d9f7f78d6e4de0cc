"""Three Kafka nodes, each thing kept by all, under load: one is killed, then another, then two at once."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiokafka.admin import NewTopic
from aiokafka.errors import KafkaError

from tests.harness import eventually
from tests.integration.runtime_parts import log_of, own_store, running, say
from tests.runtime_kit import Counting, task_event, versions_seen
from trainwright.contracts.topics import TASK
from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess, ask, new_cluster_id
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.kafka import Kafka, topic_configs
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore

NODES = (1, 2, 3)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[int, KafkaProcess]]:
    ports, identity = free_ports(6), new_cluster_id()
    quorum = dict(zip(NODES, ports[3:], strict=True))
    made = {
        node: KafkaProcess(
            tmp_path / f"kafka-{node}",
            port=ports[node - 1],
            controller_port=quorum[node],
            cluster_id=identity,
            node=node,
            quorum=quorum,
        )
        for node in NODES
    }
    with ExitStack() as stack:
        for kafka in made.values():
            stack.callback(kafka.kill)
            kafka.start()
        for kafka in made.values():
            kafka.wait_ready()
        yield made


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with own_store(tmp_path) as made:
        yield made


class Load:
    """Tasks' events, said a few at a time for as long as the block lasts."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.said = 0
        self.over, self.quiet = asyncio.Event(), asyncio.Event()

    async def run(self) -> None:
        """Say them until it is over; nobody who says something waits for Kafka."""
        while not self.over.is_set():
            async with asyncio.timeout(5):
                await say(self._store, *[task_event(self.said + n) for n in range(5)])
            self.said += 5
            await asyncio.sleep(0.02)
        self.quiet.set()
        await asyncio.Event().wait()


def is_whole(nodes: dict[int, KafkaProcess]) -> bool:
    """Return whether every node knows of all three."""
    answers = [ask(kafka.port) for kafka in nodes.values()]
    return all(answer is not None and answer.brokers == len(nodes) for answer in answers)


@asynccontextmanager
async def unacknowledged(kafka: Kafka) -> AsyncIterator[None]:
    """Have a record wait for its second replica, which is on the killed node 1, until the block has it back.

    The controllers are two, and the other replica's node knows that it is alone: what holds the record back is
    our topics' setting, nothing else.
    """
    topic = NewTopic("two", -1, -1, {0: [2, 1]}, topic_configs(TASK, replication=3))
    async with kafka._admin() as admin, kafka.producer() as producer:

        async def is_made() -> bool:
            with suppress(KafkaError, TimeoutError):  # it may ask the node that was killed, of before
                async with kafka._admin() as anew:
                    await anew.create_topics([topic])
                    return True
            return False

        await eventually(is_made, within=60, what="a topic to be made", every=0.3)

        async def is_alone() -> bool:
            with suppress(KafkaError):  # it may ask the node that was killed
                (found,) = await admin.describe_topics([topic.name])
                return [partition["isr"] for partition in found["partitions"]] == [[2]]
            return False

        await eventually(is_alone, within=60, what="the second replica to be missed", every=0.3)
        sending = asyncio.create_task(producer.send_and_wait(topic.name, b"x"))
        done, _ = await asyncio.wait({sending}, timeout=3)
        assert not done, "one replica alone acknowledged it"
        yield
        assert (await asyncio.wait_for(sending, 60)).offset == 0


async def test_killed_nodes_of_three_lose_nothing_and_double_nothing(
    nodes: dict[int, KafkaProcess], store: SqliteStore
) -> None:
    """Two gone: what was acknowledged is not lost, nobody who says something waits; with both back it goes on."""
    await eventually(lambda: is_whole(nodes), within=60, what="three nodes to know each other")
    bootstrap = ",".join(kafka.bootstrap for kafka in nodes.values())
    kafka = Kafka(RuntimeSettings(kafka=bootstrap, replication=3))
    await kafka.ensure_topics()
    clock = SystemClock()
    consumer = ConsumerLoop(Counting().inbound(store, clock), kafka)
    load = Load(store)

    async def gets_through(within: float = 60) -> None:
        until = load.said

        async def has() -> bool:
            return len(await versions_seen(store)) >= until > 0

        await eventually(has, within=within, what=f"{until} events to be applied", every=0.3)

    async with running(Relay("counting", store, kafka, clock).run(), consumer.run()):
        async with running(load.run()):
            await eventually(lambda: load.said > 50, within=30, what="some load")
            await gets_through()
            nodes[1].kill()
            await gets_through()
            async with unacknowledged(kafka):
                await asyncio.to_thread(nodes[1].start)
                await eventually(lambda: is_whole(nodes), within=60, what="the first node to be back", every=0.2)
            nodes[2].kill()
            await gets_through()
            applied = len(await versions_seen(store))
            nodes[3].kill()  # nothing is acknowledged now
            before = load.said
            await eventually(lambda: load.said > before + 50, within=30, what="who says something not to wait")
            assert len(await versions_seen(store)) >= applied
            for number in (3, 2):  # one may not do: Kafka waits for a replica known to be whole
                await asyncio.to_thread(nodes[number].start)
            await gets_through(within=120)
            load.over.set()
            await load.quiet.wait()
        await gets_through()
    seen = await versions_seen(store)
    assert seen == {f"task-{number:012x}": [1] for number in range(load.said)}
    assert {record.key.decode() for record in await log_of(bootstrap, TASK.name)} == seen.keys()
