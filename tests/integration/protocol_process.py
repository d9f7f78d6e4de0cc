"""A service as a process of its own, made to be killed: it counts tasks' events, answers each, keeps some.

    python -m tests.integration.protocol_process KAFKA STORE BLOBS --end OFFSET [--plant BUG] [--clock SECONDS]

It is made of the runtime's own consumer, relay, effects and engines, and ends by itself (0) once it has committed
that offset, sent all it had to say and kept all it had to keep. Crash points kill it (trainwright.crash);
``--plant`` gives it a bug that the checker must find.
"""

import argparse
import asyncio
import hashlib
import secrets
import signal
import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.runtime_kit import COLLECTIONS, Counting
from trainwright import crash
from trainwright.contracts.base import Event
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.task import TaskReady
from trainwright.contracts.topics import TASK
from trainwright.runtime import apply as applying
from trainwright.runtime import consumer as consuming
from trainwright.runtime import engines
from trainwright.runtime.clock import Backoff, Clock, SystemClock
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.effects import EffectRunner, Outcome
from trainwright.runtime.jobs import Job, together
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import Effect, Emitted, emit
from trainwright.runtime.relay import Relay
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.blob import Blob, BlobStore
from trainwright.storage.directory import DirectoryBlobs
from trainwright.storage.document import Collection, DocumentStore, OutboxRow, Transaction

NAME = "counting"
KEPT = Collection("kept")
ALL = (*COLLECTIONS, KEPT)
KEEPS_EVERY = 10
"""Of each task the file of every tenth version is kept."""
POLL_RECORDS = 50
"""Smaller polls than in earnest: more places to be killed at."""
BLOB_BYTES = 60_000


class SetClock(SystemClock):
    """A wall clock that somebody has set."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._by = timedelta(seconds=seconds)

    def now(self) -> datetime:
        return super().now() + self._by


def content_of(subject: str, version: int) -> bytes:
    """Return the file that is kept of a version."""
    line = f"{subject}/{version}\n".encode()
    return line * (BLOB_BYTES // len(line))


class Keeping(Counting):
    """Counts and answers; the file of every tenth version is an effect."""

    async def on_task_ready(self, event: TaskReady, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
        said = list(await super().on_task_ready(event, tx=tx, clock=clock))
        if event.task.version % KEEPS_EVERY == 0:
            key = f"{event.subject}/{event.task.version}"
            said.append(Effect("keep", key, {"subject": event.subject, "version": event.task.version}))
        return said


class Keeper:
    """The outside part: a blob, then a document that names it."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs = blobs

    async def keep(self, arguments: dict[str, Any]) -> Outcome:
        """Store the file; return what notes its hash."""
        subject, version = arguments["subject"], arguments["version"]
        blob = await self._blobs.write_bytes(content_of(subject, version))

        async def outcome(*, tx: Transaction, clock: Clock) -> Sequence[Event]:
            id = f"{subject}/{version}"
            known = await tx.get(KEPT.name, id) or {"times": 0}
            await tx.put(KEPT.name, id, {"id": id, "sha256": blob.sha256, "times": known["times"] + 1})
            return []

        return outcome


class WritesAside(Keeper):
    """A planted bug: a part of a file is kept under a name of its own until the whole is there."""

    async def keep(self, arguments: dict[str, Any]) -> Outcome:
        part = await self._blobs.write_bytes(secrets.token_bytes(BLOB_BYTES // 2))
        outcome = await super().keep(arguments)
        await self._blobs.delete(part.sha256)
        return outcome


class CommitsFirst(ConsumerLoop):
    """A planted bug: offsets are committed before the records are applied."""

    async def _apply(self, records: Sequence[Any]) -> int:
        assert self._consumer is not None
        await self._consumer.commit({TopicPartition(r.topic, r.partition): r.offset + 1 for r in records})
        return await super()._apply(records)


class MarksFirst(Relay):
    """A planted bug: rows are marked as sent before Kafka has acknowledged them."""

    async def drain(self, producer: AIOKafkaProducer) -> int:
        while rows := await self._store.outbox_pending("event", 500):
            async with self._store.transaction() as tx:
                await tx.mark_sent([row.seq for row in rows], self._clock.now())
            crash.point("relay.marked")
            for row in rows:
                headers = [(name, text.encode()) for name, text in row.headers]
                await producer.send_and_wait(row.topic, value=row.value, key=row.key.encode(), headers=headers)
        return 0


class MarksEffectsFirst(EffectRunner):
    """A planted bug: an effect is marked as done before it is had."""

    async def _run_one(self, row: OutboxRow) -> None:
        await self._finish(row, None, None)
        await super()._run_one(row)


class TrustsNames(DirectoryBlobs):
    """A planted bug: blobs are written under their own names, and one that is there is taken for whole."""

    async def write_bytes(self, content: bytes) -> Blob:
        blob = Blob(hashlib.sha256(content).hexdigest(), len(content))
        path = self._path(blob.sha256)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content[: len(content) // 2])
            crash.point("directory.aside")
            path.write_bytes(content)
        return blob


async def forgets(event: object, tx: object, scope: str) -> bool:
    """Take every event for news: a planted bug."""
    return True


async def drops(*_: object) -> None:
    """Put poison aside nowhere: a planted bug."""


class Splits:
    """A planted bug: state and events are saved in two transactions."""

    def __init__(self, store: DocumentStore) -> None:
        self._store = store
        self._held: list[tuple[Any, dict[str, Any]]] = []

    async def emit(self, tx: Transaction, emitted: Any, **about: Any) -> None:
        """Keep in memory what follows."""
        self._held.append((emitted, about))

    async def run(self) -> None:
        """Save it a moment later."""
        while True:
            await asyncio.sleep(0.05)
            held, self._held = self._held, []
            async with self._store.transaction() as tx:
                for emitted, about in held:
                    await emit(tx, emitted, **about)


PLANTS = (
    "commits-first",
    "forgets",
    "marks-first",
    "marks-effects-first",
    "trusts-names",
    "writes-aside",
    "drops",
    "splits",
)


async def serve(options: argparse.Namespace) -> None:
    """Run until everything is applied, sent and kept."""
    consuming.POLL_RECORDS = POLL_RECORDS
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, say_where)
    settings = RuntimeSettings(
        kafka=options.kafka, store=options.store, blobs=options.blobs, database=options.database
    )
    clock, kafka, plant = SetClock(options.clock), Kafka(settings), options.plant
    store = engines.documents(settings, NAME, ALL)
    await opened(store)
    blobs = (
        TrustsNames(Path(options.blobs.removeprefix("dir:")))
        if plant == "trusts-names"
        else engines.blobs(settings)
    )
    loop = (CommitsFirst if plant == "commits-first" else ConsumerLoop)(Keeping().inbound(store, clock), kafka)
    relay = (MarksFirst if plant == "marks-first" else Relay)(NAME, store, kafka, clock)
    runner = MarksEffectsFirst if plant == "marks-effects-first" else EffectRunner
    keeper = (WritesAside if plant == "writes-aside" else Keeper)(blobs)
    jobs: list[Job] = [loop.run, relay.run, runner(NAME, store, {"keep": keeper.keep}, clock).run]
    if plant == "forgets":
        vars(applying)["is_news"] = forgets
    if plant == "drops":
        vars(applying)["_bury"] = drops
    if plant == "splits":
        splits = Splits(store)
        vars(applying)["emit"] = splits.emit
        jobs.append(splits.run)

    async def until_finished() -> None:
        while not await finished(loop, store, options.end):  # noqa: ASYNC110 - a store and a log are asked
            await asyncio.sleep(0.05)

    await together([*jobs, until_finished])
    await store.close()


def say_where() -> None:
    """Write where every task stands: somebody has waited too long."""
    for task in asyncio.all_tasks():
        task.print_stack(file=sys.stderr)  # its default writes the first line to stdout


async def opened(store: DocumentStore) -> None:
    """Open the store, waiting for it as long as it takes: its disk may be full, its server away."""
    waiting = Backoff(SystemClock())
    while True:
        try:
            return await store.open()
        except StoreUnavailable:
            await waiting.wait()


async def finished(loop: ConsumerLoop, store: DocumentStore, end: int) -> bool:
    """Return whether everything is committed, sent and kept."""
    client: AIOKafkaConsumer | None = loop._consumer
    if client is None or not client.assignment():
        return False
    committed = await client.committed(TopicPartition(TASK.name, 0)) or 0
    return bool(committed >= end) and not await store.outbox_depth()


def run(arguments: Sequence[str]) -> None:
    """Be the service."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kafka")
    parser.add_argument("store")
    parser.add_argument("blobs")
    parser.add_argument(
        "--end", type=int, default=0, help="ends when it has committed this offset, and has nothing to do"
    )
    parser.add_argument("--database", default="protocol")
    parser.add_argument("--plant", choices=PLANTS)
    parser.add_argument("--clock", type=float, default=0.0)
    asyncio.run(serve(parser.parse_args(arguments)))


if __name__ == "__main__":
    run(sys.argv[1:])
