"""The live end of the log, read once for everybody in this process and kept for a little while.

It reads while somebody listens, and only the topics that somebody wants. Who falls behind what is kept here reads
on from the log itself (`history.py`): nobody waits for anybody.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaConnectionError, OffsetOutOfRangeError

from services.gateway.stream.events import Said
from services.gateway.stream.history import PATIENCE, History, past_unreadable, said_in
from services.gateway.stream.position import EARLIEST, Partition, Position, fingerprint
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.consumer import Answers
from trainwright.runtime.kafka import UNREACHABLE, Kafka

logger = logging.getLogger(__name__)

POLL_MS = 250
POLL_RECORDS = 500
KEPT_RECORDS = 10_000
KEPT_BYTES = 32 * 1024 * 1024
AWAY_AFTER = 3.0
"""Seconds without an answer to a fetch (they come twenty times as often) after which Kafka counts as away."""
COMPARE_EVERY = 60.0
"""Seconds between looks at whether it is still the same log."""
LINGER = 10.0
"""Seconds that the reader stays when the last listener has gone: most come back."""


class Feed:
    """Reads the end of the log; listeners are woken and look themselves."""

    def __init__(self, kafka: Kafka, clock: Clock) -> None:
        self._kafka = kafka
        self._clock = clock
        self.history = History(kafka)
        self._wanted: Counter[str] = Counter()
        self._task: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._recent: list[Said] = []
        self._bytes = 0
        self._start: dict[Partition, int] = {}
        self._next: dict[Partition, int] = {}
        self.first = 0
        """Number of the oldest record that is kept."""
        self.cluster = ""
        self.connected = False
        self.resets = 0
        """How often the log turned out to be another one."""

    @contextmanager
    def listening(self, topics: AbstractSet[str]) -> Iterator[None]:
        """Have topics read until the end of the block."""
        self._wanted.update(topics)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            self._wanted.subtract(topics)

    def news(self) -> asyncio.Event:
        """Return what is set when there is something new: take it before a look, wait for it after."""
        return self._news

    def ready(self, topics: AbstractSet[str]) -> bool:
        """Return whether all these topics are being read."""
        return self.connected and topics <= {topic for topic, _ in self._next}

    def end(self, topics: AbstractSet[str]) -> dict[Partition, int]:
        """Return where these topics are read next."""
        return {each: offset for each, offset in self._next.items() if each[0] in topics}

    def covers(self, position: Position, topics: AbstractSet[str]) -> bool:
        """Return whether everything after a position is kept here, or yet to come."""
        return all(
            self._start[each] <= (at if (at := position.get(each)) is not None else EARLIEST) <= offset
            for each, offset in self._next.items()
            if each[0] in topics
        )

    def after(self, number: int, most: int) -> Sequence[Said] | None:
        """Return the next records from a number on; None if they are not kept any more."""
        if number < self.first:
            return None
        return self._recent[number - self.first : number - self.first + most]

    async def _run(self) -> None:
        backoff = Backoff(self._clock, most=1.0)
        while self._wanted.total():
            try:
                async with self._kafka.reader() as consumer:
                    await self._follow(consumer, backoff)
            except UNREACHABLE as error:
                logger.warning("the stream of events waits: %r", error)
            except Exception:
                logger.exception("the stream's client broke; it is built anew")
            self.connected = False
            self._wake()
            if self._wanted.total():
                await backoff.wait()
            else:
                self._forget()
                await self.history.close()  # somebody may come while it closes: then once more

    async def _follow(self, consumer: AIOKafkaConsumer, backoff: Backoff) -> None:
        await self._meet(consumer)
        answers, compared = Answers(consumer, self._clock), self._clock.monotonic()
        idle_since: float | None = None
        topics = frozenset[str]()
        while idle_since is None or self._clock.monotonic() - idle_since < LINGER:
            wanted = frozenset(+self._wanted) or topics
            if not wanted:
                return
            if wanted != topics:
                await self._assign(consumer, wanted)
                topics = wanted
                answers.note()
            if not self.connected:
                self.connected = True
                self._wake()
            await self._poll(consumer)
            if answers.silent_for() > AWAY_AFTER:
                raise KafkaConnectionError(f"no answer to a fetch for {AWAY_AFTER:g} s")
            backoff.reset()
            now = self._clock.monotonic()
            if now - compared > COMPARE_EVERY:
                await self._meet(consumer)
                topics, compared = frozenset(), now  # there may be more partitions, too
            if self._wanted.total():
                idle_since = None
            elif idle_since is None:
                idle_since = now

    async def _meet(self, consumer: AIOKafkaConsumer) -> None:
        """Learn which log this is; forget everything if it is not the one that was read before."""
        cluster = fingerprint(await self._kafka.cluster_id())
        ends = await self._ends(consumer, self._next)
        if cluster != self.cluster or any(ends[each] < offset for each, offset in self._next.items()):
            if self.cluster:
                logger.warning("the log is another one, or has lost records; streams are told of a gap")
                self.resets += 1
            self._forget()
            self.cluster = cluster

    async def _assign(self, consumer: AIOKafkaConsumer, wanted: AbstractSet[str]) -> None:
        # The consumer itself tells the partitions of topics only that it is assigned already.
        there = await consumer._client.fetch_all_metadata()
        numbers = {topic: there.partitions_for_topic(topic) for topic in sorted(wanted)}
        missing = [topic for topic, found in numbers.items() if not found]
        if missing:
            raise KafkaConnectionError(f"the topic {missing[0]} does not exist yet")
        partitions = {TopicPartition(topic, number) for topic, found in numbers.items() for number in found}
        starts = await self._ends(consumer, partitions - self._next.keys())
        grown = {topic for topic, _ in self._next}
        starts = {each: 0 if each[0] in grown else end for each, end in starts.items()}
        self._start = {each: at for each, at in self._start.items() if each in partitions} | starts
        self._next = {each: at for each, at in self._next.items() if each in partitions} | starts
        consumer.assign([TopicPartition(*each) for each in self._next])
        for each, offset in self._next.items():
            consumer.seek(TopicPartition(*each), offset)
        self._wake()

    async def _ends(self, consumer: AIOKafkaConsumer, partitions: Iterable[Partition]) -> dict[Partition, int]:
        asked = [TopicPartition(*each) for each in partitions]
        if not asked:
            return {}
        ends = await asyncio.wait_for(consumer.end_offsets(asked), PATIENCE)
        return {tuple(each): offset for each, offset in ends.items()}

    async def _poll(self, consumer: AIOKafkaConsumer) -> None:
        try:
            polled = said_in(await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS))
        except OffsetOutOfRangeError:
            # Deleted while Kafka was away, or lost with the log: begin at the end; listeners read up to it.
            self._forget()
            raise
        except UnicodeDecodeError:
            polled = await past_unreadable(consumer, list(consumer.assignment()))
        said = [each for batch in polled.values() for each in batch]
        if said:
            said.sort(key=lambda each: each.timestamp)
            for each in said:
                self._next[each.partition] = each.offset + 1
            self._recent += said
            self._bytes += sum(each.size for each in said)
            self._trim()
            self._wake()

    def _trim(self) -> None:
        if len(self._recent) <= KEPT_RECORDS and self._bytes <= KEPT_BYTES:
            return
        dropped = 0
        while dropped < len(self._recent) and (
            len(self._recent) - dropped > KEPT_RECORDS // 2 or self._bytes > KEPT_BYTES // 2
        ):
            said = self._recent[dropped]
            self._bytes -= said.size
            if said.partition in self._start:
                self._start[said.partition] = said.offset + 1
            dropped += 1
        del self._recent[:dropped]
        self.first += dropped

    def _forget(self) -> None:
        self.first += len(self._recent) + 1  # so that who has heard all of it looks where its position stands, too
        self._recent, self._bytes = [], 0
        self._start, self._next = {}, {}

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
