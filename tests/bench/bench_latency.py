"""How long an isolated event takes to its handler, and what 13 idle consumers cost.

    python tests/bench/bench_latency.py [events] [--idle SECONDS]

Events come 0.3 to 2.6 s apart, so that every wait of an idle client shows. The peer is aiokafka alone.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from aiokafka import AIOKafkaConsumer

from tests.bench.figures import bench, say, share, spread
from tests.runtime_kit import COLLECTIONS, queued, record, task_event
from trainwright.contracts.queue import TaskQueued
from trainwright.contracts.task import TaskReady
from trainwright.contracts.topics import QUEUE, TASK
from trainwright.runtime.apply import Inbound
from trainwright.runtime.clock import Clock, SystemClock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import Emitted
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.document import Transaction
from trainwright.storage.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]


class Stopwatch:
    """Notes when each event was sent and when it arrived, by place."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = {}
        self.waits: dict[str, list[float]] = {"raw": [], "handler": [], "answer": []}

    def arrived(self, place: str, subject: str) -> None:
        """Note an arrival."""
        if subject in self.sent:
            self.waits[place].append(time.perf_counter() - self.sent[subject])


async def raw(kafka: Kafka, watch: Stopwatch) -> None:
    """Read with the client alone."""
    async with AIOKafkaConsumer(TASK.name, bootstrap_servers=kafka.bootstrap) as consumer:
        async for got in consumer:
            watch.arrived("raw", got.key.decode())


async def disk(folder: Path, waits: list[float]) -> None:
    """Note how long the disk takes to keep a few bytes, every now and then."""
    with (folder / "sync").open("ab") as file:
        while True:
            started = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
            waits.append(time.perf_counter() - started)
            await asyncio.sleep(0.2)


async def isolated(kafka: Kafka, folder: Path, count: int) -> None:
    """Send events one by one; handler and, over outbox, relay and a second consumer, the answer's handler."""
    watch, clock = Stopwatch(), SystemClock()
    stores = [SqliteStore(folder / f"{name}.db", COLLECTIONS) for name in ("one", "two")]
    for store in stores:
        await store.open()

    async def on_ready(event: TaskReady, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
        watch.arrived("handler", event.subject)
        return [queued(event.subject, 1, clock)]

    async def on_queued(event: TaskQueued, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
        watch.arrived("answer", event.subject)
        return ()

    loops = [
        ConsumerLoop(Inbound("one", TASK, {TaskReady: on_ready}, stores[0], clock), kafka),
        ConsumerLoop(Inbound("two", QUEUE, {TaskQueued: on_queued}, stores[1], clock), kafka),
    ]
    jobs = [loop.run() for loop in loops] + [Relay("one", stores[0], kafka, clock).run(), raw(kafka, watch)]
    syncs: list[float] = []
    tasks = [asyncio.create_task(job) for job in [*jobs, disk(folder, syncs)]]
    await asyncio.sleep(4)
    chance = random.Random(1)
    async with kafka.producer() as producer:
        for number in range(count):
            event = record(task_event(number))
            await asyncio.sleep(chance.uniform(0.3, 2.6))
            watch.sent[f"task-{number:012x}"] = time.perf_counter()
            await producer.send(TASK.name, value=event.value, key=event.key, headers=event.headers)
    await asyncio.sleep(1)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for store in stores:
        await store.close()
    say("floor: the disk keeps a few bytes", spread(syncs))
    say("peer: publish to a client alone", spread(watch.waits["raw"]))
    say("publish to the wrapper's handler", spread(watch.waits["handler"]), "p99 ≤ 20 ms")
    say("publish, handler, outbox, relay, second handler", spread(watch.waits["answer"]))
    assert len(watch.waits["answer"]) == count, "an event did not arrive"


IDLE = """
import asyncio, sys
from pathlib import Path
from tests.runtime_kit import COLLECTIONS, Counting
from trainwright.contracts.topics import TOPICS
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore
from trainwright.runtime.apply import Inbound
from aiokafka import AIOKafkaConsumer

async def raw(bootstrap, topic):
    async with AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, group_id="raw" + topic) as consumer:
        while True:
            await consumer.getmany(timeout_ms=1000)

async def main(bootstrap, folder, consumers, relays, bare):
    kafka, clock, jobs = Kafka(RuntimeSettings(kafka=bootstrap)), SystemClock(), []
    for number in range(max(consumers, relays)):
        store = SqliteStore(Path(folder) / f"idle{number}.db", COLLECTIONS)
        await store.open()
        topic = TOPICS[number % len(TOPICS)]
        if number < consumers and bare:
            jobs.append(raw(bootstrap, topic.name))
        elif number < consumers:
            jobs.append(ConsumerLoop(Inbound(f"idle{number}", topic, {}, store, clock), kafka).run())
        if number < relays:
            jobs.append(Relay(f"idle{number}", store, kafka, clock).run())
    await asyncio.gather(*jobs)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5] == "bare"))
"""


def idle(bootstrap: str, broker: int, folder: Path, seconds: float) -> None:
    """Measure processes that wait."""
    for what, consumers, relays, kind in (
        ("peer: 13 aiokafka consumers at defaults, idle", 13, 0, "bare"),
        ("13 consumers, idle", 13, 0, "ours"),
        ("13 consumers and 6 relays, idle", 13, 6, "ours"),
    ):
        arguments = [sys.executable, "-c", IDLE, bootstrap, str(folder), str(consumers), str(relays), kind]
        with subprocess.Popen(arguments, cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            time.sleep(8)
            ours, brokers = share([process.pid, broker], seconds)
            process.kill()
        say(what, f"{ours:.1f} % of a core, the broker {brokers:.1f} %")


async def prepare(kafka: Kafka) -> None:
    """Make the topics."""
    await kafka.ensure_topics()


def main(options: argparse.Namespace) -> None:
    """Measure."""
    with bench() as (broker, folder):
        kafka = Kafka(RuntimeSettings(kafka=broker.bootstrap))
        asyncio.run(prepare(kafka))
        assert broker.pid is not None
        say("broker alone, idle", f"{share([broker.pid], 5)[0]:.1f} % of a core")
        if options.events:
            asyncio.run(isolated(kafka, folder, options.events))
        if options.idle:
            idle(broker.bootstrap, broker.pid, folder, options.idle)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("events", type=int, nargs="?", default=100)
    parser.add_argument("--idle", type=float, default=20)
    main(parser.parse_args())
