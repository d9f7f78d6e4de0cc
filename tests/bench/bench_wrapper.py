"""Events per second through the consumer wrapper on SQLite, beside what it is made of.

python tests/bench/bench_wrapper.py [events]
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

from tests.bench.figures import bench, rate, say
from tests.runtime_kit import COLLECTIONS, Counting, record, task_event
from trainwright.contracts.task import TaskReady
from trainwright.contracts.topics import TASK
from trainwright.runtime.apply import Inbound, apply, open_record
from trainwright.runtime.clock import Clock, SystemClock
from trainwright.runtime.consumer import POLL_RECORDS, ConsumerLoop
from trainwright.runtime.envelope import Reread
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import Emitted
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.document import Transaction
from trainwright.storage.sqlite import SqliteStore


async def keep(event: TaskReady, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
    """Keep the event's document: the small handler."""
    await tx.put("seen", event.subject, {"id": event.subject, "status": event.task.status})
    return ()


async def fill(kafka: Kafka, records: Sequence[Reread]) -> None:
    """Put the records on the log."""
    await kafka.ensure_topics()
    async with AIOKafkaProducer(bootstrap_servers=kafka.bootstrap, acks=1, linger_ms=5) as producer:
        for r in records:
            await producer.send(TASK.name, value=r.value, key=r.key, headers=r.headers)


async def raw(kafka: Kafka, count: int, *, commits: bool) -> None:
    """Floor: read the topic with the client alone, perhaps commit after each poll."""
    consumer = AIOKafkaConsumer(
        TASK.name,
        bootstrap_servers=kafka.bootstrap,
        group_id=f"raw-{commits}",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    started, seen = time.perf_counter(), 0
    while seen < count:
        polled = await consumer.getmany(timeout_ms=1000, max_records=POLL_RECORDS)
        seen += sum(map(len, polled.values()))
        if commits and polled:
            await consumer.commit()
    rate(
        f"floor: aiokafka alone{', with a commit a poll' if commits else ''}", count, time.perf_counter() - started
    )
    await consumer.stop()


async def applied(folder: Path, records: Sequence[Reread], size: int, what: str) -> None:
    """Apply without Kafka, so many records a transaction."""
    store = SqliteStore(folder / f"apply-{size}.db", COLLECTIONS)
    await store.open()
    inbound = Inbound("bench", TASK, {TaskReady: keep}, store, SystemClock())
    started = time.perf_counter()
    for at in range(0, len(records), size):
        await apply(records[at : at + size], inbound)
    rate(what, len(records), time.perf_counter() - started)
    await store.close()


async def wrapper(kafka: Kafka, folder: Path, count: int, *, answers: bool) -> None:
    """The whole: Kafka, wrapper, SQLite."""
    name = f"bench{int(answers)}"
    store = SqliteStore(folder / f"{name}.db", COLLECTIONS)
    await store.open()
    handler = Counting().on_task_ready if answers else keep
    inbound = Inbound(name, TASK, {TaskReady: handler}, store, SystemClock())
    loop = ConsumerLoop(inbound, kafka)
    task = asyncio.create_task(loop.run())
    while not await store.count("seen"):
        await store.next_commit()
    first, started = await store.count("seen"), time.perf_counter()
    while await store.count("seen") < count:
        await store.next_commit()
    what = "wrapper, read-change-write and an answer each" if answers else "wrapper, small handler"
    rate(what, count - first, time.perf_counter() - started, "" if answers else "≥ 5,000 /s")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()


async def main(count: int) -> None:
    """Measure, floors first."""
    records = [record(task_event(n), offset=n) for n in range(count)]
    with bench() as (broker, folder):
        kafka = Kafka(RuntimeSettings(kafka=broker.bootstrap))
        await fill(kafka, records)
        say("events, bytes each", f"{count:,}, {len(records[0].value or b'')}")
        started = time.perf_counter()
        for r in records[:5000]:
            open_record(r)
        rate("floor: envelope and schema alone", 5000, time.perf_counter() - started)
        await raw(kafka, count, commits=False)
        await raw(kafka, count, commits=True)
        await applied(folder, records, POLL_RECORDS, "apply without Kafka, a transaction per poll")
        await applied(folder, records[:2000], 1, "peer: apply without Kafka, a transaction per record")
        await wrapper(kafka, folder, count, answers=False)
        await wrapper(kafka, folder, count, answers=True)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
