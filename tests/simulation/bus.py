"""The log in memory, and the clients of it that the runtime asks for: at least once, in order by partition.

Records may come twice, late, or as rubbish; commits may be refused; the broker may go away for a while, or one
program alone be cut off from it. What a program that was killed had on its way may still arrive.
"""

import asyncio
import math
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import Context
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError, KafkaConnectionError
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.structs import RecordMetadata

from tests.simulation.world import Life, Program, World
from trainwright.contracts.base import Event
from trainwright.contracts.topics import TOPICS, Topic
from trainwright.runtime import apply
from trainwright.runtime.envelope import Envelope, Poison, Reread

LOST = [("ce_id", b"lost"), ("ce_type", b"trainwright.nothing.Lost.v1"), ("ce_source", b"/chaos")]
"""Headers that stand where a record was lost: of a kind that nobody knows."""

FETCH = 0.002
"""Virtual seconds until a reader has what it asked for."""

Opened = tuple[Envelope, Event | None] | None
"""What a record holds; None when nobody can read it."""


@lru_cache(maxsize=10_000)
def partition_of(key: bytes | None, partitions: int) -> int:
    """Return where the producers put a key."""
    numbers = list(range(partitions))
    return 0 if key is None or partitions == 1 else int(DefaultPartitioner()(key, numbers, numbers))


@dataclass(slots=True)
class SimLog:
    """What was said, by topic and partition; positions by group; whether the broker answers."""

    world: World
    partitions: int = 1
    every: float = 0.0
    """Seconds between the moments at which the broker takes in what was sent meanwhile; 0 is at once."""
    records: dict[str, list[list[Reread]]] = field(init=False)
    positions: dict[tuple[str, TopicPartition], int] = field(default_factory=dict)
    ids: set[str] = field(default_factory=set)
    """Identifiers of all events that were ever on the log."""
    back_at: float = 0.0
    lost: list[str] = field(default_factory=list)
    on_position: Callable[[Program, Sequence[Reread]], None] = field(default=lambda program, records: None)
    """Told of the records that a reader says it is done with, at that moment."""
    _waiting: dict[str, list["asyncio.Future[None]"]] = field(default_factory=lambda: defaultdict(list))
    members: dict[tuple[str, str], list["SimConsumer"]] = field(default_factory=lambda: defaultdict(list))

    def __post_init__(self) -> None:
        self.records = {topic.name: [[] for _ in range(self.count(topic.name))] for topic in TOPICS}

    def count(self, topic: str) -> int:
        """Return the partitions of a topic."""
        return 1 if "dead" in topic else self.partitions

    def is_away(self, program: Program) -> bool:
        """Return whether a program cannot reach the broker."""
        world, now = self.world, self.world.loop.seconds
        return now < self.back_at or now < world.cut_off.get(program, 0.0)

    def takes_in(self, at: float) -> float:
        """Return when the broker takes in what reaches it at a time: readers then find several records at once."""
        return math.ceil(at / self.every) * self.every if self.every else at

    def partition(self, topic: str, key: bytes | None) -> int:
        """Return the partition of a key."""
        return partition_of(key, self.count(topic))

    def append(
        self, topic: str, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]]
    ) -> tuple[int, int]:
        """Add a record; return its partition and offset."""
        number = self.partition(topic, key)
        records = self.records[topic][number]
        records.append(Reread(topic, number, len(records), key, value, headers))
        self.ids.add(headers[1][1].decode())
        if waiting := self._waiting.pop(topic, None):
            self.world.loop.call_later(FETCH, _wake, *waiting, context=Context())
        return number, len(records) - 1

    async def news(self, topic: str, within: float) -> bool:
        """Wait for another record on a topic, and for a fetch to bring it; return whether one came in time."""
        loop = self.world.loop
        waiter: asyncio.Future[None] = loop.create_future()
        timer = loop.call_later(within, _wake, waiter)
        self._waiting[topic].append(waiter)
        try:
            await waiter
            return waiter not in self._waiting[topic]
        finally:
            timer.cancel()
            if waiter in self._waiting[topic]:
                self._waiting[topic].remove(waiter)

    def open(self, record: Reread) -> Opened:
        """Return what a record holds."""
        try:
            return apply.open_record(record)
        except Poison:
            return None

    def events(self) -> Iterator[tuple[Envelope, Event]]:
        """Yield every event that can be read, topic by topic, partition by partition, in order."""
        for record in self.all_of(*(topic.name for topic in TOPICS)):
            opened = self.open(record)
            if opened is not None and opened[1] is not None:
                yield opened[0], opened[1]

    def all_of(self, *topics: str) -> Iterator[Reread]:
        """Yield the records of topics, partition by partition, in order."""
        return (record for topic in topics for records in self.records[topic] for record in records)

    def keep_position(self, program: Program, group: str, partition: TopicPartition, offset: int) -> None:
        """Keep how far a group has come."""
        before = self.positions.get((group, partition), 0)
        self.positions[group, partition] = offset
        self.on_position(program, self.records[partition.topic][partition.partition][before:offset])

    async def storm(self) -> None:
        """Let the broker go away now and then."""
        world, every = self.world, self.world.chaos.kafka_away_every
        while every:
            await asyncio.sleep(world.random.expovariate(1 / every))
            if not world.is_stormy:
                return
            world.count("Kafka away")
            self.back_at = world.now + world.random.choice((2.0, 15.0, 40.0))


def _wake(*waiting: "asyncio.Future[None]") -> None:
    for waiter in waiting:
        if not waiter.done():
            waiter.set_result(None)


class SimProducer:
    """Sends in order; what is sent is acknowledged after a moment, or when the broker is back."""

    def __init__(self, log: SimLog, life: Life) -> None:
        self._log = log
        self._life = life
        self._last = 0.0

    async def send(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> "asyncio.Future[RecordMetadata]":
        """Put a record on its way."""
        self._life.check()
        world = self._log.world
        ack: asyncio.Future[RecordMetadata] = world.loop.create_future()
        reaches = world.now + world.random.uniform(0.0005, 0.005)
        self._last = max(self._last, self._log.takes_in(reaches))
        self._later(self._last, topic, key, value, list(headers), ack)
        return ack

    async def send_and_wait(self, topic: str, **record: Any) -> RecordMetadata:
        """Send, and wait for the acknowledgement."""
        return await (await self.send(topic, **record))

    def _later(self, at: float, *record: Any) -> None:
        self._log.world.loop.call_at(at, self._deliver, *record, context=Context())

    def _deliver(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes]],
        ack: "asyncio.Future[RecordMetadata]",
    ) -> None:
        log, world, program = self._log, self._log.world, self._life.program
        if self._life.is_over and world.random.random() < 0.5:
            return
        if log.is_away(program):
            again = max(log.back_at, world.cut_off.get(program, 0.0))
            self._later(again, topic, key, value, headers, ack)
            return
        if world.strikes(world.chaos.poison):
            world.count("poison")
            log.append(topic, key, world.random.choice((b"{", b"null", None)), headers)
        number, offset = log.append(topic, key, value, headers)
        kind = dict(headers).get("ce_type", b"").decode()
        if len(log.lost) < world.chaos.lost_events and world.loses(kind) and "pulse" not in topic:
            world.count("event lost")
            log.lost.append(kind)
            log.records[topic][number][offset] = Reread(topic, number, offset, key, None, LOST)
        if world.strikes(world.chaos.duplicate):
            world.count("duplicate")
            log.append(topic, key, value, headers)
        if not ack.done():
            ack.set_result(RecordMetadata(topic, number, TopicPartition(topic, number), offset, 0, 0, 0))


class SimConsumer:
    """A member of a group: the topic's partitions are shared out among those that are there."""

    def __init__(self, log: SimLog, life: Life, group: str, topic: str) -> None:
        self._log = log
        self._life = life
        self._group = group
        self._topic = topic
        self._next: dict[TopicPartition, int] = {}
        self._shared: tuple[list[SimConsumer], list[TopicPartition]] = [], []
        """The members that there were when the partitions were last shared out, and what was ours."""

    def join(self) -> None:
        """Become a member; one of the same program, from before, is none any more."""
        program = self._life.program
        members = [one for one in self._log.members[self._group, self._topic] if one._life.program is not program]
        self._log.members[self._group, self._topic] = [*members, self]

    def leave(self) -> None:
        """Be a member no more."""
        members = self._log.members[self._group, self._topic]
        self._log.members[self._group, self._topic] = [one for one in members if one is not self]

    def assignment(self) -> set[TopicPartition]:
        return set(self._own())

    def _own(self) -> list[TopicPartition]:
        members = self._log.members[self._group, self._topic]
        if members is self._shared[0]:
            return self._shared[1]
        numbers = range(self._log.count(self._topic))
        own = [n for n in numbers if members and members[n % len(members)] is self]
        partitions = [TopicPartition(self._topic, n) for n in own]
        self._next = {one: self._next[one] for one in partitions if one in self._next}
        for one in partitions:
            self._next.setdefault(one, self._log.positions.get((self._group, one), 0))
        self._shared = members, partitions
        return partitions

    def last_poll_timestamp(self, _: TopicPartition) -> float:
        log = self._log
        return 0.0 if log.is_away(self._life.program) else log.world.now

    async def position(self, partition: TopicPartition) -> int:
        return self._next[partition]

    def seek(self, partition: TopicPartition, offset: int) -> None:
        self._next[partition] = offset

    async def getmany(
        self, *_: TopicPartition, timeout_ms: int = 0, max_records: int | None = None
    ) -> Mapping[TopicPartition, Sequence[Reread]]:
        """Return what follows, or nothing after the time-out."""
        self._life.check()
        log, world, program = self._log, self._log.world, self._life.program
        if log.is_away(program) or not self._found(1):
            wait = 1.0 if log.is_away(program) else timeout_ms / 1000
            if not await log.news(self._topic, wait):
                return {}
        else:
            await asyncio.sleep(FETCH)
        if world.strikes(world.chaos.slow):
            await asyncio.sleep(world.random.uniform(1, 4))
        if log.is_away(program):
            return {}
        found = self._found(world.random.choice((1, 3, max_records or 100)))
        for partition, records in found.items():
            self._next[partition] = records[-1].offset + 1
        return found

    def _found(self, most: int) -> dict[TopicPartition, Sequence[Reread]]:
        found: dict[TopicPartition, Sequence[Reread]] = {}
        for one in self._own():
            if records := self._log.records[self._topic][one.partition][self._next[one] : self._next[one] + most]:
                found[one] = records
        return found

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Keep the group's positions; now and then that is refused."""
        self._life.at("applied, not committed")
        log, world = self._log, self._log.world
        if log.is_away(self._life.program):
            raise KafkaConnectionError("the simulated broker is away")
        own = self._own()
        if any(partition not in own for partition in offsets) or world.strikes(world.chaos.commit_refused):
            world.count("commit refused")
            raise CommitFailedError()
        for partition, offset in offsets.items():
            log.keep_position(self._life.program, self._group, partition, offset)


class SimKafka:
    """What the runtime asks of Kafka, for one life of a program."""

    bootstrap = "simulated"

    def __init__(self, log: SimLog, life: Life) -> None:
        self._log = log
        self._life = life

    @asynccontextmanager
    async def producer(self, *, durable: bool = True) -> AsyncIterator[SimProducer]:
        await self._reach()
        yield SimProducer(self._log, self._life)

    @asynccontextmanager
    async def consumer(self, service: str, topic: Topic) -> AsyncIterator[SimConsumer]:
        await self._reach()
        consumer = SimConsumer(self._log, self._life, service, topic.name)
        consumer.join()
        try:
            yield consumer
        finally:
            consumer.leave()

    def partitions(self, topic: Topic) -> int:
        return self._log.count(topic.name)

    async def cluster_id(self) -> str:
        await self._reach()
        return "simulated"

    async def topic_ids(self) -> dict[str, str]:
        return {topic.name: topic.name for topic in TOPICS}

    async def end_offsets(self, partitions: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        await self._reach()
        return {one: len(self._log.records[one.topic][one.partition]) for one in partitions}

    async def ensure_topics(self) -> None:
        await self._reach()

    async def _reach(self) -> None:
        self._life.check()
        await asyncio.sleep(0.001)
        if self._log.is_away(self._life.program):
            raise KafkaConnectionError("the simulated broker is away")
