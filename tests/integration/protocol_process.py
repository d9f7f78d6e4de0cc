"""A service as a process of its own, made to be killed: it counts tasks' events and answers each with an event.

    python -m tests.integration.protocol_process BOOTSTRAP STORE TOPIC_END [--crash POINT:N] [--plant BUG]

It ends by itself (0) once it has committed offset TOPIC_END and sent all it had to say. ``--crash`` makes it kill
itself with SIGKILL at the Nth passage of a point; ``--plant`` gives it a bug that the checker must find.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.runtime_kit import COLLECTIONS, Counting
from trainwright.contracts.topics import TASK
from trainwright.runtime import apply as applying
from trainwright.runtime.clock import Backoff, SystemClock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore, SqliteTransaction


class Crash:
    """Kills the process at the Nth passage of one point."""

    def __init__(self, wanted: str | None) -> None:
        self._point, _, number = (wanted or "").partition(":")
        self._left = int(number or 0)

    def at(self, point: str) -> None:
        """Pass a point."""
        if point == self._point:
            self._left -= 1
            if self._left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)


class CrashingStore(SqliteStore):
    """SQLite that passes points on its way."""

    crash: Crash

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        self.crash.at("before-transaction")
        async with super().transaction() as tx:
            yield tx
            self.crash.at("before-commit")
        self.crash.at("after-commit")


class CrashingLoop(ConsumerLoop):
    """The consumer, with its client in sight."""

    crash: Crash
    client: AIOKafkaConsumer | None = None

    async def _consume(self, consumer: AIOKafkaConsumer, backoff: Backoff) -> None:
        self.client = consumer
        await super()._consume(consumer, backoff)

    async def _commit(self, consumer: AIOKafkaConsumer, polled: Any, applied: int) -> None:
        await super()._commit(consumer, polled, applied)
        self.crash.at("after-offsets")


class CommitsFirst(CrashingLoop):
    """A planted bug: offsets are committed before the records are applied."""

    async def _apply(self, records: Sequence[Any]) -> int:
        assert self.client is not None
        offsets = {TopicPartition(r.topic, r.partition): r.offset + 1 for r in records}
        await self.client.commit(offsets)
        return await super()._apply(records)


class MarksFirst(Relay):
    """A planted bug: rows are marked as sent before Kafka has acknowledged them."""

    crash: Crash

    async def drain(self, producer: AIOKafkaProducer) -> int:
        while rows := await self._store.outbox_pending("event", 500):
            async with self._store.transaction() as tx:
                await tx.mark_sent([row.seq for row in rows], self._clock.now())
            self.crash.at("after-mark")
            for row in rows:
                headers = [(name, text.encode()) for name, text in row.headers]
                await producer.send_and_wait(row.topic, value=row.value, key=row.key.encode(), headers=headers)
        return 0


async def forgets(event: object, tx: object, scope: str) -> bool:
    """Take every event for news: a planted bug."""
    return True


async def main(options: argparse.Namespace) -> None:
    """Run until everything is applied and sent."""
    crash = Crash(options.crash)
    clock = SystemClock()
    kafka = Kafka(RuntimeSettings(kafka=options.bootstrap))
    store = CrashingStore(Path(options.store), COLLECTIONS)
    store.crash = crash
    await store.open()
    if options.plant == "forgets":
        applying.is_news = forgets
    inbound = Counting().inbound(store, clock)
    loop = (CommitsFirst if options.plant == "commits-first" else CrashingLoop)(inbound, kafka)
    loop.crash = crash
    MarksFirst.crash = crash
    relay = (MarksFirst if options.plant == "marks-first" else Relay)("counting", store, kafka, clock)
    jobs = [asyncio.create_task(job) for job in (loop.run(), relay.run())]
    while not await finished(loop, store, options.end):
        for job in jobs:
            if job.done():
                job.result()
        await asyncio.sleep(0.05)
    for job in jobs:
        job.cancel()
    await asyncio.gather(*jobs, return_exceptions=True)
    await store.close()


async def finished(loop: CrashingLoop, store: SqliteStore, end: int) -> bool:
    """Return whether everything is committed and sent."""
    if loop.client is None or not loop.client.assignment() or await store.outbox_depth():
        return False
    return (await loop.client.committed(TopicPartition(TASK.name, 0)) or 0) >= end


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("store")
    parser.add_argument("end", type=int)
    parser.add_argument("--crash")
    parser.add_argument("--plant", choices=["commits-first", "forgets", "marks-first"])
    asyncio.run(main(parser.parse_args()))
