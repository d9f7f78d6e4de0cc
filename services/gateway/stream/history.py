"""What lies before the live end: pages of the log from any position, in the order of time.

One client for the whole process, one page at a time: a hundred who read old events take turns, and hold nothing
between two pages but their position.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import datetime

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError

from services.gateway.stream.events import Said, merged
from services.gateway.stream.position import EARLIEST, Partition
from trainwright.runtime.envelope import Reread
from trainwright.runtime.kafka import Kafka

PAGE = 500
"""Records that are read of a partition at a time."""
POLL_MS = 1000
PATIENCE = 10.0
"""Seconds that one page may take; then Kafka counts as away."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Records that a position names and the log has no more: ``expired``, or ``reset`` with the whole log."""

    reason: str
    topic: str | None = None
    partition: int | None = None
    start: int = 0
    end: int = 0


@dataclass(slots=True)
class Page:
    """What was found: gaps first, then records; ``moved`` are partitions that go on from another offset."""

    gaps: list[Gap] = field(default_factory=list)
    records: list[Said] = field(default_factory=list)
    moved: dict[Partition, int] = field(default_factory=dict)


class History:
    """Reads pages of the log."""

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self._turn = asyncio.Lock()
        self._open = AsyncExitStack()
        self._consumer: AIOKafkaConsumer | None = None

    async def page(self, position: Mapping[Partition, int]) -> Page:
        """Return the page that follows a position; an empty one at the log's end.

        Raises:
            KafkaError, OSError, TimeoutError: Kafka cannot be used.
        """
        async with self._turn:
            try:
                consumer = await self._connected()
                return await asyncio.wait_for(self._read(consumer, position), PATIENCE)
            except BaseException:
                await self._let_go()  # what a cancelled page leaves in the client is not known
                raise

    async def at(self, topics: Mapping[Partition, int], moment: datetime) -> dict[Partition, int]:
        """Return where the first record at or after a moment stands; the given offset where there is none."""
        async with self._turn:
            try:
                consumer = await self._connected()
                wanted = {TopicPartition(*each): max(int(moment.timestamp() * 1000), 0) for each in topics}
                found = await asyncio.wait_for(consumer.offsets_for_times(wanted), PATIENCE)
                return {
                    each: at.offset if (at := found[TopicPartition(*each)]) else topics[each] for each in topics
                }
            except BaseException:
                await self._let_go()
                raise

    async def close(self) -> None:
        """Let go of the client."""
        async with self._turn:
            await self._let_go()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = await self._open.enter_async_context(self._kafka.reader())
        return self._consumer

    async def _let_go(self) -> None:
        self._consumer = None
        await self._open.aclose()

    async def _read(self, consumer: AIOKafkaConsumer, position: Mapping[Partition, int]) -> Page:
        partitions = [TopicPartition(*each) for each in position]
        first, last = await consumer.beginning_offsets(partitions), await consumer.end_offsets(partitions)
        page, starts = Page(), dict[TopicPartition, int]()
        for partition in partitions:
            start = _start(position[partition], first[partition], last[partition], partition, page)
            if start < last[partition]:
                starts[partition] = start
        if starts:
            consumer.assign(list(starts))
            for partition, start in starts.items():
                consumer.seek(partition, start)
            batches = await self._first_of_each(consumer, list(starts))
            unfinished = {each for each, batch in batches.items() if batch[-1].offset + 1 < last[each]}
            page.records = merged({tuple(each): batch for each, batch in batches.items()}, unfinished)
        return page

    async def _first_of_each(
        self, consumer: AIOKafkaConsumer, partitions: list[TopicPartition]
    ) -> dict[TopicPartition, list[Said]]:
        batches: dict[TopicPartition, list[Said]] = {}
        while missing := [each for each in partitions if each not in batches]:
            try:
                batches |= said_in(await consumer.getmany(*missing, timeout_ms=POLL_MS, max_records=PAGE))
            except OffsetOutOfRangeError as error:  # deleted since the ends were asked for: the next page says so
                raise KafkaConnectionError("the log's beginning moved") from error
            except UnicodeDecodeError:
                batches |= await past_unreadable(consumer, missing)
        return batches


def said_in(polled: Mapping[TopicPartition, Sequence[ConsumerRecord]]) -> dict[TopicPartition, list[Said]]:
    """Return what a poll has brought."""
    return {partition: [Said(each, each.timestamp) for each in records] for partition, records in polled.items()}


async def past_unreadable(
    consumer: AIOKafkaConsumer, partitions: list[TopicPartition]
) -> dict[TopicPartition, list[Said]]:
    """Read one record of a partition; one whose headers the client cannot read comes back empty.

    aiokafka fails a whole poll for one header whose name is not UTF-8.
    """
    for partition in partitions:
        try:
            polled = said_in(await consumer.getmany(partition, timeout_ms=POLL_MS // 10, max_records=1))
        except UnicodeDecodeError:
            offset = await consumer.position(partition)
            consumer.seek(partition, offset + 1)
            unread = Reread(partition.topic, partition.partition, offset, None, None, [])
            return {partition: [Said(unread, 0)]}
        if polled:
            return polled
    return {}


def _start(wanted: int, first: int, last: int, partition: Partition, page: Page) -> int:
    """Return where to read a partition, and note what is missing before that."""
    if wanted == EARLIEST:
        start = first
    elif wanted < first or wanted > last:
        reason = "expired" if wanted < first else "reset"
        page.gaps.append(Gap(reason, *partition, start=wanted, end=first))
        start = first
    else:
        return wanted
    page.moved[partition] = start
    return start
