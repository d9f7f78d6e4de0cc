"""Rows per second through the relay, beside the producer alone.

python tests/bench/bench_relay.py [rows]
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.figures import bench, rate, say
from tests.runtime_kit import COLLECTIONS, task_event
from trainwright.contracts.topics import TASK
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.envelope import Cause
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import emit
from trainwright.runtime.relay import BATCH, Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.document import DocumentStore, OutboxRow
from trainwright.storage.sqlite import SqliteStore


async def producer_alone(kafka: Kafka, rows: Sequence[OutboxRow], size: int, what: str) -> None:
    """Floor: send the same records, waiting for acknowledgements after so many."""
    async with kafka.producer() as producer:
        await producer.send_and_wait(TASK.name, b"warm", key=b"warm")
        started = time.perf_counter()
        for at in range(0, len(rows), size):
            acks = [
                await producer.send(TASK.name, value=row.value, key=row.key.encode())
                for row in rows[at : at + size]
            ]
            await asyncio.gather(*acks)
        rate(what, len(rows), time.perf_counter() - started)


async def through_the_relay(name: str, store: DocumentStore, kafka: Kafka, count: int) -> list[OutboxRow]:
    """Measure how fast rows are saved and relayed; return them."""
    clock = SystemClock()
    await store.open()
    started = time.perf_counter()
    for at in range(0, count, 200):
        async with store.transaction() as tx:
            events = [task_event(n) for n in range(at, at + 200)]
            await emit(tx, events, source="bench", cause=Cause(f"cause-{at}"), clock=clock)
    rate(f"{name}: emitting, 200 a transaction", count, time.perf_counter() - started)
    rows = await store.outbox_pending("event", count)
    task = asyncio.create_task(Relay("bench", store, kafka, clock).run())
    while (first := await store.outbox_pending("event", 1)) and first[0].id == rows[0].id:
        await store.next_commit()
    left, started = await store.outbox_depth(), time.perf_counter()
    while await store.outbox_pending("event", 1):  # to count them costs more than to relay them
        await store.next_commit()
    rate(f"{name}: relay", left, time.perf_counter() - started, "≥ 2,000 /s")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await store.close()
    return rows


async def main(count: int) -> None:
    """Measure."""
    with bench() as (broker, folder):
        kafka = Kafka(RuntimeSettings(kafka=broker.bootstrap))
        await kafka.ensure_topics()
        rows = await through_the_relay("SQLite", SqliteStore(folder / "relay.db", COLLECTIONS), kafka, count)
        say("rows, bytes each", f"{count:,}, {len(rows[0].value)}")
        await producer_alone(kafka, rows, BATCH, f"floor: the producer alone, {BATCH} at a time")
        await producer_alone(kafka, rows[:1000], 1, "peer: the producer alone, one at a time")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
