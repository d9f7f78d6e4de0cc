"""Kafka clients, made in one place with the settings that were measured to be safe; and the topics themselves."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError, for_code

from trainwright.contracts.topics import TOPICS, Topic
from trainwright.runtime.settings import RuntimeSettings
from trainwright.runtime.topic_ids import topic_ids

logger = logging.getLogger(__name__)

REQUEST_TIMEOUT_MS = 10_000
FETCH_WAIT_MS = 3000
"""Milliseconds that the broker may hold a fetch for want of records."""
FETCHER_WAIT_MS = 4700
"""Milliseconds that aiokafka's fetcher waits for its fetches: longer than one takes, and no multiple of it.

When both end in the same turn of the loop, the fetcher sees the fetch still in flight, sends no new one and waits
once more: with 1000 for both, 3 of 100 events that were a second or two apart came up to a second late.
"""
READER_WAIT_MS = 50
"""The same for a reader of many partitions, which is there only while somebody listens."""
STOP_TIMEOUT = 5.0
"""Seconds that a client may take to stop: with the broker paused it would take 40."""

TOPIC_EXISTS = 36
UNREACHABLE = (KafkaError, OSError, TimeoutError)
"""What clients raise while Kafka cannot be used."""


async def stop_bounded(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    """Stop a client; tear it down when it does not stop in time."""
    try:
        await asyncio.wait_for(client.stop(), STOP_TIMEOUT)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        # A fetcher that backs off is cancelled by stop(), which passes that on (seen after a SIGSTOP of 90 s):
        # nobody asked this task to end, and what runs in it would be gone for good without a word.
        await _tear_down(client)
    except UNREACHABLE as error:
        logger.warning("%s did not stop cleanly: %r", type(client).__name__, error)
        await _tear_down(client)


async def _tear_down(client: AIOKafkaProducer | AIOKafkaConsumer) -> None:
    # aiokafka has no way to let go without flushing and leaving in order. What goes on in the background would
    # keep its sockets and, once the broker is back, send what another producer has sent since.
    if isinstance(client, AIOKafkaProducer):
        busy, connections = [client._sender.sender_task], client.client
    else:
        group = client._coordinator
        busy = [client._fetcher and client._fetcher._fetch_task]
        busy += [getattr(group, name, None) for name in ("_coordination_task", "_heartbeat_task")]
        connections = client._client
    for task in busy:
        if task is not None:
            task.cancel()
    with contextlib.suppress(*UNREACHABLE):
        await asyncio.wait_for(connections.close(), 1)


def topic_configs(topic: Topic, replication: int = 1) -> dict[str, str]:
    """Return a topic's settings on the broker."""
    configs = {
        "retention.ms": str(topic.retention_ms),
        "retention.bytes": str(topic.retention_bytes),
        # By the broker's clock: one that is an hour ahead refuses records, one behind would delete them early.
        "message.timestamp.type": "LogAppendTime",
    }
    if replication > 2:
        # By default "all" replicas that are in sync may be one, and what it acknowledged is gone with it.
        configs["min.insync.replicas"] = "2"
    if topic.retention_ms > 0:
        # Only closed segments are deleted, and by default one closes after a week or at 1 GiB.
        configs["segment.ms"] = str(max(topic.retention_ms // 4, 60_000))
    if topic.retention_bytes > 0:
        configs["segment.bytes"] = str(min(topic.retention_bytes // 16, 64 * 1024 * 1024))
    return configs


class Kafka:
    """Makes clients of one cluster."""

    def __init__(self, settings: RuntimeSettings) -> None:
        self.bootstrap = settings.kafka
        self.static_members = settings.static_members
        self._settings = settings

    @asynccontextmanager
    async def producer(self, *, durable: bool = True) -> AsyncIterator[AIOKafkaProducer]:
        """Run a producer; ``durable`` ones are idempotent and wait for all replicas."""
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap,
            acks="all" if durable else 1,
            enable_idempotence=durable,
            linger_ms=0,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
            max_request_size=1024 * 1024,
            max_batch_size=256 * 1024,
        )
        try:
            await producer.start()
            yield producer
        finally:
            await stop_bounded(producer)

    @asynccontextmanager
    async def consumer(self, service: str, topic: Topic) -> AsyncIterator[AIOKafkaConsumer]:
        """Run a consumer of one topic, in the service's group for that topic; nothing is committed by itself."""
        short = topic.name.split(".")[1]
        group = f"trainwright.{service}.{short}"
        consumer = AIOKafkaConsumer(
            topic.name,
            bootstrap_servers=self.bootstrap,
            group_id=group,
            group_instance_id=f"{service}-{short}-0" if self.static_members else None,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS if self.partitions(topic) == 1 else 100,
            consumer_timeout_ms=FETCHER_WAIT_MS,
            fetch_max_bytes=8 * 1024 * 1024,
            heartbeat_interval_ms=3000,
            session_timeout_ms=10_000,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await consumer.start()
            yield consumer
        finally:
            await stop_bounded(consumer)

    @asynccontextmanager
    async def reader(self) -> AsyncIterator[AIOKafkaConsumer]:
        """Run a consumer without a group that is assigned what to read, many partitions at once, and seeks.

        A position that the log does not have raises ``OffsetOutOfRangeError``: nothing is passed over in silence.
        """
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="none",
            # A partition that was just drained is not in the fetch that is under way, and waits it out.
            fetch_max_wait_ms=READER_WAIT_MS,
            consumer_timeout_ms=3 * READER_WAIT_MS + 20,
            fetch_max_bytes=4 * 1024 * 1024,
            max_partition_fetch_bytes=256 * 1024,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await consumer.start()
            yield consumer
        finally:
            await stop_bounded(consumer)

    def partitions(self, topic: Topic) -> int:
        """Return how many partitions a topic has in this profile."""
        return 1 if self._settings.topics == "embedded" else topic.partitions

    async def cluster_id(self) -> str:
        """Return the identity of the cluster."""
        async with self._admin() as admin:
            cluster = await asyncio.wait_for(admin.describe_cluster(), REQUEST_TIMEOUT_MS / 1000)
            return str(cluster["cluster_id"])

    async def topic_ids(self) -> dict[str, str]:
        """Return the identity of each of our topics that is there; one that is made anew has another."""
        async with self._admin() as admin:
            ids = topic_ids(admin._client, [topic.name for topic in TOPICS])
            return await asyncio.wait_for(ids, REQUEST_TIMEOUT_MS / 1000)

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the offset after the last record of each partition."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS, enable_auto_commit=False
        )
        try:
            await consumer.start()
            ends = consumer.end_offsets(list(partitions))
            return dict(await asyncio.wait_for(ends, REQUEST_TIMEOUT_MS / 1000))
        finally:
            await stop_bounded(consumer)

    async def ensure_topics(self) -> None:
        """Create the topics that are missing; check the others, never alter them."""
        async with self._admin() as admin:
            there = set(await admin.list_topics())
            missing = [self._new(topic) for topic in TOPICS if topic.name not in there]
            if missing:
                answer = await admin.create_topics(missing)
                for name, code, *_ in answer.topic_errors:
                    if code not in (0, TOPIC_EXISTS):
                        raise KafkaError(f"topic {name} cannot be created: {for_code(code).__name__}")
            for found in await admin.describe_topics([t.name for t in TOPICS if t.name in there]):
                self._check(found["topic"], len(found["partitions"]))

    def _new(self, topic: Topic) -> NewTopic:
        replication = self._settings.replication
        configs = topic_configs(topic, replication)
        return NewTopic(topic.name, self.partitions(topic), replication, topic_configs=configs)

    def _check(self, name: str, partitions: int) -> None:
        wanted = next(self.partitions(topic) for topic in TOPICS if topic.name == name)
        if partitions != wanted:
            logger.warning("topic %s has %d partitions where %d are declared", name, partitions, wanted)

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=REQUEST_TIMEOUT_MS)
        try:
            await asyncio.wait_for(admin.start(), REQUEST_TIMEOUT_MS / 1000)
            yield admin
        finally:
            await asyncio.wait_for(admin.close(), STOP_TIMEOUT)
