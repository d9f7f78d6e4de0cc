"""The counting service's parts inside a test: its store, its relay, its consumer, and how to wait for them."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRecord, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.util import calc_crc32c

from tests.harness import eventually
from tests.runtime_kit import COLLECTIONS, record, task_event
from trainwright.contracts.base import Event
from trainwright.contracts.topics import TASK, Topic
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.envelope import Cause
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import emit
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.document import DocumentStore
from trainwright.storage.sqlite import SqliteStore

PARTITION = TopicPartition(TASK.name, 0)


@asynccontextmanager
async def own_store(folder: Path) -> AsyncIterator[SqliteStore]:
    """Open a store of the counting service."""
    store = SqliteStore(folder / "counting.db", COLLECTIONS)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def running(*jobs: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run jobs beside the block; one that ends by itself fails the test."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        yield
        for task in tasks:
            assert not task.done(), task.exception()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def configs_of(admin: AIOKafkaAdminClient, topic: Topic) -> dict[str, str]:
    """Return a topic's settings as the broker has them."""
    (answer,) = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, topic.name)])
    ((_, _, _, _, entries),) = answer.resources
    return {entry[0]: entry[1] for entry in entries}


async def delete(bootstrap: str, topic: str) -> None:
    """Delete a topic, as an operator does; return once the broker has forgotten it."""
    kafka = client_of(bootstrap)
    async with kafka._admin() as admin:
        ((_, code),) = (await admin.delete_topics([topic])).topic_error_codes
    assert code == 0

    async def is_gone() -> bool:
        return topic not in await kafka.topic_ids()

    await eventually(is_gone, within=10, what=f"{topic} to be gone")


def client_of(bootstrap: str) -> Kafka:
    """Return the clients' maker for a broker."""
    return Kafka(RuntimeSettings(kafka=bootstrap))


async def say(store: DocumentStore, *events: Event) -> None:
    """Put events into a store's outbox, all in one transaction."""
    clock = SystemClock()
    async with store.transaction() as tx:
        await emit(tx, events, source="counting", cause=Cause(clock.new_id("cause")), clock=clock)


async def log_of(bootstrap: str, topic: str) -> list[ConsumerRecord]:
    """Return what a topic holds now, with a plain client."""
    consumer = AIOKafkaConsumer(topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    try:
        partitions = list(consumer.assignment())
        ends = await consumer.end_offsets(partitions)
        held: list[ConsumerRecord] = []
        while any([await consumer.position(p) < ends[p] for p in partitions]):
            for batch in (await consumer.getmany(timeout_ms=200)).values():
                held += batch
        return held
    finally:
        await consumer.stop()


async def committed(bootstrap: str, group: str, topic: str) -> int | None:
    """Return the offset that a group has committed for the first partition of a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, group_id=group, enable_auto_commit=False)
    partition = TopicPartition(topic, 0)
    consumer.assign([partition])
    await consumer.start()
    try:
        found: int | None = await consumer.committed(partition)
        return found
    finally:
        with contextlib.suppress(Exception):
            await consumer.stop()


def with_header_name(name: bytes) -> bytes:
    """Return a batch of one record that has a header with any bytes for its name, as some clients allow."""
    builder = DefaultRecordBatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=100_000,
    )
    good = record(task_event(500))
    builder.append(0, int(time.time() * 1000), good.key, good.value, [("N" * len(name), b""), *good.headers])
    batch = bytearray(builder.build().replace(b"N" * len(name), name))
    batch[17:21] = calc_crc32c(bytes(batch[21:])).to_bytes(4)
    return bytes(batch)


async def tell_raw(broker: KafkaProcess, batch: bytes) -> None:
    """Put a batch on the log as it is."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap) as producer:
        await producer.partitions_for(TASK.name)
        request = ProduceRequest(None, -1, 5000, [(TASK.name, [(0, batch)])])
        response = await producer.client.send(producer.client.cluster.leader_for_partition(PARTITION), request)
        ((_, ((_, code, *_),)),) = response.topics
        assert code == 0
