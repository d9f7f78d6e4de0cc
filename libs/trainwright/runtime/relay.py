"""The relay: publishes a service's outbox, in order, at least once, and keeps what it sent for 24 hours.

When the log turns out to have lost records (another cluster or topic, or an end before what was acknowledged), the
kept rows are published again; readers ignore what they have.
"""

import asyncio
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import timedelta

from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.structs import RecordMetadata

from trainwright import crash
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import TOPICS
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.kafka import UNREACHABLE, Kafka
from trainwright.runtime.telemetry.publishing import Publishing
from trainwright.storage.document import DocumentStore, LogPosition, OutboxRow

logger = logging.getLogger(__name__)

BATCH = 500
TURN = 100
"""Rows that are handed to the client before others in the process have their turn."""
ACK_TIMEOUT = 10.0
KEEP = timedelta(hours=24)
SWEEP_EVERY = 3600.0
COMPARE_EVERY = 60.0
"""Seconds between looks at whether the log still holds what was sent."""
IDLE = 5.0
"""Seconds between looks at the outbox when no commit of this process wakes the relay."""


class Relay:
    """Publishes one store's events."""

    def __init__(
        self,
        service: str,
        store: DocumentStore,
        kafka: Kafka,
        clock: Clock,
        *,
        compare_every: float = COMPARE_EVERY,
    ) -> None:
        self._compare_every = compare_every
        self._service = service
        self._store = store
        self._kafka = kafka
        self._clock = clock
        self._publishing = Publishing(service, clock)
        self._position = LogPosition()
        self.connected = False

    async def run(self) -> None:
        """Publish until cancelled, over every loss of Kafka or the store."""
        backoff = Backoff(self._clock)
        while True:
            try:
                async with self._kafka.producer() as producer:
                    await self._compare_log()
                    watch = asyncio.create_task(self._watch_log())
                    try:
                        await self._publish_for_ever(producer, watch, backoff)
                    finally:
                        watch.cancel()
            except (*UNREACHABLE, StoreUnavailable) as error:
                logger.warning("%s: relay waits: %r", self._service, error)
            except Exception:
                logger.exception("%s: the relay's client broke; it is built anew", self._service)
            self.connected = False
            await backoff.wait()

    async def drain(self, producer: AIOKafkaProducer) -> int:
        """Publish what is pending; return how many rows were sent.

        Raises:
            TimeoutError: Kafka did not acknowledge in time; the rows stay.
        """
        sent = 0
        while rows := await self._store.outbox_pending("event", BATCH):
            crash.point("relay.read")
            sends = [self._publishing.begin(row.topic, row.headers) for row in rows]
            sent_rows = [_with(row, send.headers) for row, send in zip(rows, sends, strict=True)]
            async with asyncio.timeout(ACK_TIMEOUT):  # wait_for loses a cancellation beside an answer
                acks = await _send(producer, sent_rows)
            crash.point("relay.acknowledged")
            self._publishing.end(sends)
            if _went_back(self._position, acks):
                await self._send_again("records are numbered from before the last ones")
            self._position = _after(self._position, acks)
            async with self._store.transaction(durable=False) as tx:  # a row without its mark is sent again
                await tx.mark_sent([row.seq for row in rows], self._clock.now())
                await tx.set_log_position(self._position)
            crash.point("relay.marked")
            sent += len(rows)
        return sent

    async def _publish_for_ever(
        self, producer: AIOKafkaProducer, watch: asyncio.Task[None], backoff: Backoff
    ) -> None:
        swept = -math.inf
        while not watch.done():
            await self.drain(producer)
            self.connected = True
            backoff.reset()
            now = self._clock.monotonic()
            if now - swept > SWEEP_EVERY:
                await self._store.outbox_sweep(self._clock.now() - KEEP)
                swept = now
            try:
                async with asyncio.timeout(IDLE):
                    await self._store.outbox_added()
            except TimeoutError:
                continue
        watch.result()

    async def _watch_log(self) -> None:
        """Notice a log that was lost while there was nothing to send; end when there is something to do about it.

        A task of its own: asking takes longer than an event may wait for it.
        """
        while True:
            await self._clock.sleep(self._compare_every)
            cluster_id, topics = await self._kafka.cluster_id(), await self._kafka.topic_ids()
            if len(topics) < len(TOPICS) or await self._has_lost(self._position, cluster_id, topics):
                return

    async def _compare_log(self) -> None:
        known = await self._store.log_position()
        cluster_id = await self._kafka.cluster_id()
        await self._kafka.ensure_topics()  # a log that was lost took its topics with it
        topics = await self._kafka.topic_ids()
        self._position = LogPosition(cluster_id, known.offsets, topics)
        if await self._has_lost(known, cluster_id, topics):
            await self._send_again("it or a topic is another one, or ends before the last record")

    async def _send_again(self, why: str) -> None:
        count = await self._store.outbox_again(self._clock.now() - KEEP)
        logger.warning("%s: the log has lost records (%s); %d kept events go out again", self._service, why, count)
        self._position = replace(self._position, offsets={})

    async def _has_lost(self, known: LogPosition, cluster_id: str, topics: Mapping[str, str]) -> bool:
        if cluster_id != known.cluster_id:
            return known.cluster_id is not None
        partitions = {name: _partition(name) for name in known.offsets}
        if not partitions:
            return False
        written = {tp.topic for tp in partitions.values()} & known.topics.keys()
        if any(topics.get(name) != known.topics[name] for name in written):
            return True
        ends = await self._kafka.end_offsets(list(partitions.values()))
        return any(ends.get(tp, 0) <= known.offsets[name] for name, tp in partitions.items())


async def _send(producer: AIOKafkaProducer, rows: Sequence[OutboxRow]) -> list[RecordMetadata]:
    acks = []
    for number, row in enumerate(rows, start=1):
        ack = await producer.send(
            row.topic,
            value=row.value,
            key=row.key.encode(),
            headers=[(name, value.encode()) for name, value in row.headers],
        )
        acks.append(ack)
        if number % TURN == 0:
            await asyncio.sleep(0)
    crash.point("relay.sending")
    return list(await asyncio.gather(*acks))


def _with(row: OutboxRow, headers: list[tuple[str, str]]) -> OutboxRow:
    return row if headers is row.headers else replace(row, headers=headers)


def _went_back(position: LogPosition, acks: Sequence[RecordMetadata]) -> bool:
    # A repeat that the broker recognised has the offset -1.
    return any(0 <= ack.offset <= position.offsets.get(f"{ack.topic}/{ack.partition}", -1) for ack in acks)


def _after(position: LogPosition, acks: Sequence[RecordMetadata]) -> LogPosition:
    newest = {f"{ack.topic}/{ack.partition}": ack.offset for ack in acks if ack.offset >= 0}
    return replace(position, offsets={**position.offsets, **newest})


def _partition(name: str) -> TopicPartition:
    topic, _, number = name.rpartition("/")
    return TopicPartition(topic, int(number))
