"""Workers that speak the protocol on a real log but start no process: what they run ends at once, or when told to.

    python -m tests.bench.hands BOOTSTRAP [--workers N] [--slots N] [--hold]

For each command it writes a line: the task, and the Unix time at which the command was read.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from datetime import UTC, datetime

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.harness import as_record
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, AttemptStarted, Outcome
from trainwright.contracts.base import Event
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.pulse import AttemptProgressed, WorkerHeartbeat
from trainwright.contracts.task import StopKind, TaskPhase
from trainwright.contracts.topics import TOPIC_OF
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerRegistered
from trainwright.runtime.apply import open_record
from trainwright.runtime.clock import SystemClock

HEARTBEAT_SECONDS = 2.0
PROGRESS_SECONDS = 5.0
LIVE = "one"
OUTCOME_OF = {
    StopKind.PAUSE: Outcome.PAUSED,
    StopKind.CANCEL: Outcome.CANCELLED,
    StopKind.PREEMPT: Outcome.INTERRUPTED,
}


class Hands:
    """All workers of one pool."""

    def __init__(self, producer: AIOKafkaProducer, workers: int, slots: int, *, hold: bool) -> None:
        self._producer = producer
        self._clock = SystemClock()
        self._slots = slots
        self._hold = hold
        self.workers = [f"worker-{number:012x}" for number in range(1, workers + 1)]
        self._running: dict[str, dict[str, RunAttempt]] = defaultdict(dict)
        self._ended: dict[str, list[AttemptRef]] = defaultdict(list)
        self._seq = 0

    async def say(self, event: Event) -> None:
        """Publish an event; the acknowledgement is not waited for."""
        await self._producer.send(**as_record(event, self._clock, "hands"))

    async def register(self) -> None:
        """Introduce all workers."""
        for worker in self.workers:
            document = WorkerDocument(
                worker_id=worker,
                incarnation=LIVE,
                version=1,
                hostname=worker,
                cpus=self._slots,
                memory=self._slots * 2**30,
                registered_at=datetime.now(UTC),
            )
            await self.say(WorkerRegistered(worker=document))

    async def beat(self) -> None:
        """Say for ever that all live, and how far what is held has come."""
        while True:
            for worker in self.workers:
                running = [
                    AttemptRef(task_id=one.task_id, attempt=one.attempt) for one in self._running[worker].values()
                ]
                await self.say(
                    WorkerHeartbeat(
                        worker_id=worker,
                        incarnation=LIVE,
                        time=datetime.now(UTC),
                        running=running,
                        ended=self._ended[worker][-200:],
                    )
                )
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def progress(self) -> None:
        """Say how far each held attempt has come, every five seconds and evenly over them."""
        while True:
            held = [one for runs in self._running.values() for one in runs.values()]
            self._seq += 1
            begun = time.monotonic()
            for number, one in enumerate(held):
                event = AttemptProgressed(
                    task_id=one.task_id,
                    attempt=one.attempt,
                    worker_id=one.worker_id,
                    seq=self._seq,
                    phase=TaskPhase.TRAINING,
                    step=self._seq * 100,
                    total_steps=1_000_000,
                    latest_metrics={"loss": 1 / self._seq},
                )
                await self.say(event)
                ahead = begun + PROGRESS_SECONDS * number / len(held) - time.monotonic()
                if ahead > 0.02:
                    await asyncio.sleep(ahead)
            await asyncio.sleep(max(0.1, begun + PROGRESS_SECONDS - time.monotonic()))

    async def obey(self, event: Event) -> None:
        """Do what one command asks."""
        if isinstance(event, RunAttempt):
            sys.stdout.write(f"{event.task_id} {time.time():.6f}\n")
            await self.say(AttemptStarted(attempt=self._document(event, 1)))
            if self._hold:
                self._running[event.worker_id][event.task_id] = event
            else:
                await self._end(event, Outcome.COMPLETED)
        elif isinstance(event, StopAttempt) and event.task_id in self._running[event.worker_id]:
            await self._end(self._running[event.worker_id].pop(event.task_id), OUTCOME_OF[event.kind])

    async def _end(self, run: RunAttempt, outcome: Outcome) -> None:
        await self.say(AttemptEnded(attempt=self._document(run, 2, outcome)))
        self._ended[run.worker_id].append(AttemptRef(task_id=run.task_id, attempt=run.attempt))

    def _document(self, run: RunAttempt, version: int, outcome: Outcome | None = None) -> AttemptDocument:
        now = datetime.now(UTC)
        return AttemptDocument(
            task_id=run.task_id,
            attempt=run.attempt,
            version=version,
            worker_id=run.worker_id,
            incarnation=LIVE,
            started_at=now,
            ended_at=now if outcome else None,
            outcome=outcome,
        )


async def main(options: argparse.Namespace) -> None:
    """Work until ended."""
    topic = TOPIC_OF[RunAttempt].name
    consumer = AIOKafkaConsumer(bootstrap_servers=options.bootstrap, auto_offset_reset="earliest")
    producer = AIOKafkaProducer(bootstrap_servers=options.bootstrap, acks="all")
    await asyncio.gather(consumer.start(), producer.start())
    consumer.assign([TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or {0}])
    await consumer.seek_to_end()
    hands = Hands(producer, options.workers, options.slots, hold=options.hold)
    await hands.register()
    beside = [asyncio.create_task(hands.beat()), asyncio.create_task(hands.progress())]
    try:
        async for record in consumer:
            _, event = open_record(record)
            if event is not None:
                await hands.obey(event)
            sys.stdout.flush()
    finally:
        for task in beside:
            task.cancel()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("bootstrap")
    parser.add_argument("--workers", type=int, default=50)
    parser.add_argument("--slots", type=int, default=100)
    parser.add_argument("--hold", action="store_true")
    asyncio.run(main(parser.parse_args()))
