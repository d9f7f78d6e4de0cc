"""Read this worker's commands: a reader of its own, its position in the worker's own store.

No consumer group: the partition is the one that producers choose for the worker's key, records of other
workers are dropped, and everything that waits is read before anything is acted on, because a stop may
follow its start.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner

from services.trainer_worker import store
from trainwright import crash
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import COMMAND
from trainwright.runtime.apply import Inbound, apply, apply_each
from trainwright.runtime.clock import Backoff
from trainwright.runtime.kafka import (
    FETCH_WAIT_MS,
    FETCHER_WAIT_MS,
    REQUEST_TIMEOUT_MS,
    UNREACHABLE,
    Kafka,
    stop_bounded,
)

logger = logging.getLogger(__name__)

POLL_MS = 1000
QUIET_SECONDS = 30.0
POLL_RECORDS = 500


class CommandReader:
    """Reads commands of one worker, keeps them, and says when there is something to act on."""

    def __init__(self, worker_id: str, inbound: Inbound, kafka: Kafka, act: Callable[[], None]) -> None:
        self._key = worker_id.encode()
        self._inbound = inbound
        self._kafka = kafka
        self._act = act
        self._clock = inbound.clock

    async def run(self) -> None:
        """Read until cancelled, over every loss of Kafka or the store."""
        backoff = Backoff(self._clock)
        while True:
            try:
                await self._connect_and_read(backoff)
            except UNREACHABLE as error:
                logger.warning("commands wait: %r", error)
            except StoreUnavailable as error:
                logger.warning("commands wait for the store: %s", error)
            await backoff.wait()

    async def _connect_and_read(self, backoff: Backoff) -> None:
        partition = await self._partition()
        log = (await self._kafka.topic_ids()).get(COMMAND.name, "")
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._kafka.bootstrap,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            consumer_timeout_ms=FETCHER_WAIT_MS,
            request_timeout_ms=REQUEST_TIMEOUT_MS,
        )
        try:
            await consumer.start()
            consumer.assign([partition])
            await self._seek(consumer, partition, log)
            await self._read_to_end(consumer, partition, log)
            backoff.reset()
            heard = self._clock.monotonic()
            while True:
                self._act()
                polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
                if polled:
                    await self._keep(polled, partition, log)
                elif self._clock.monotonic() - heard > QUIET_SECONDS:
                    await self._check_not_stuck(consumer, partition, log)
                else:
                    continue
                heard = self._clock.monotonic()
        finally:
            await stop_bounded(consumer)

    async def _partition(self) -> TopicPartition:
        async with self._kafka.producer(durable=False) as producer:
            partitions = sorted(await producer.partitions_for(COMMAND.name))
        return TopicPartition(COMMAND.name, DefaultPartitioner()(self._key, partitions, partitions))

    async def _seek(self, consumer: AIOKafkaConsumer, partition: TopicPartition, log: str) -> None:
        """Go on where reading stopped; on another log, or past its end, begin at the beginning."""
        known = await store.command_position(self._inbound.store)
        if known is None or known.get("log") != log or known["partition"] != partition.partition:
            await consumer.seek_to_beginning(partition)
            return
        end = (await self._ends(consumer, partition))[partition]
        if known["offset"] > end:
            await consumer.seek_to_beginning(partition)
        else:
            consumer.seek(partition, known["offset"])

    async def _read_to_end(self, consumer: AIOKafkaConsumer, partition: TopicPartition, log: str) -> None:
        end = (await self._ends(consumer, partition))[partition]
        while await asyncio.wait_for(consumer.position(partition), REQUEST_TIMEOUT_MS / 1000) < end:
            polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            await self._keep(polled, partition, log)

    async def _check_not_stuck(self, consumer: AIOKafkaConsumer, partition: TopicPartition, log: str) -> None:
        """Have the client rebuilt when it hears nothing although it is not at the log's end, or reads another log.

        Seen after broker restarts; and when the log was lost, it ends before our position.
        """
        if (await self._kafka.topic_ids()).get(COMMAND.name) != log:
            raise KafkaError("the log is another one; commands are read from its beginning")
        position = await asyncio.wait_for(consumer.position(partition), REQUEST_TIMEOUT_MS / 1000)
        end = (await self._ends(consumer, partition))[partition]
        if end != position:
            raise KafkaError(f"no command for {QUIET_SECONDS:.0f} s at {position}, although the log ends at {end}")

    async def _ends(self, consumer: AIOKafkaConsumer, partition: TopicPartition) -> dict[TopicPartition, int]:
        ends = consumer.end_offsets([partition])
        return dict(await asyncio.wait_for(ends, REQUEST_TIMEOUT_MS / 1000))

    async def _keep(
        self,
        polled: Mapping[TopicPartition, Sequence[ConsumerRecord]],
        partition: TopicPartition,
        log: str,
    ) -> None:
        """Apply the records that are ours, then keep the position: guards make a second reading harmless."""
        records = polled.get(partition, ())
        if not records:
            return
        mine = [record for record in records if record.key == self._key]
        if mine:
            try:
                await apply(mine, self._inbound)
            except StoreUnavailable:
                raise
            except Exception:
                logger.info("a command of %d fails; one by one", len(mine), exc_info=True)
                await apply_each(mine, self._inbound)
            crash.point("agent.command_kept")
        async with self._inbound.store.transaction() as tx:
            await store.put_command_position(tx, log, partition.partition, records[-1].offset + 1)
