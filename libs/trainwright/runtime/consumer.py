"""The consumer loop: poll, apply in short transactions, commit exact offsets. One consumer per service and topic.

Raw aiokafka under our own life cycle (docs/decisions/0001): every path ends in a commit of exactly what was
applied, a moment later, or in a pause and a seek back. Who dies in that moment reads some records again, which are
no news. A client that is stuck or cut off is thrown away and built anew.
"""

import asyncio
import logging
from collections.abc import Coroutine, Mapping, Sequence
from contextlib import suppress

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from trainwright import crash
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import PULSE
from trainwright.runtime.apply import Inbound, apply, apply_each
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.envelope import Record, Reread
from trainwright.runtime.kafka import UNREACHABLE, Kafka
from trainwright.runtime.relay import COMPARE_EVERY
from trainwright.runtime.telemetry.figures import count
from trainwright.runtime.telemetry.names import DEAD_LETTERED, HANDLER_FAILURES

logger = logging.getLogger(__name__)

POLL_RECORDS = 200
POLL_MS = 1000
TURN = 100
"""Records of one transaction, some 20 ms of work. While it goes on nobody else in the process has a turn, and
requests wait; its commit, which waits for the disk, is everybody's turn.
"""
GATHER = 0.05
"""Seconds between polls of pulses: only the newest counts and nobody waits for one, but thousands of running tasks
send a thousand a second, and each poll costs a transaction and a commit of its offset. And seconds that records of
a topic wait which a service follows at leisure: so whoever must answer them has the loop and the disk first.
"""
COMMIT_EVERY = 0.1
"""Seconds between commits of offsets, at least: each is a write at the broker."""
BUDGET = 5.0
"""Seconds that one poll may take once records fail; what is left then is read again by the next poll."""
AWAY_AFTER = 5.0
"""Seconds without an answer to a fetch (one comes every three, records or not) until Kafka counts as away."""
STUCK_AFTER = 60.0
"""Seconds without an answer after which a client is rebuilt (seen stuck after broker restarts)."""

Polled = Mapping[TopicPartition, Sequence[Record]]


class ConsumerLoop:
    """Reads one topic for one service."""

    def __init__(
        self,
        inbound: Inbound,
        kafka: Kafka,
        *,
        at_leisure: bool = False,
        compare_every: float = COMPARE_EVERY,
    ) -> None:
        self._compare_every = compare_every
        self._inbound = inbound
        self._at_leisure = at_leisure
        self._kafka = kafka
        self._clock = inbound.clock
        self.name = f"{inbound.service}<-{inbound.topic.name}"
        self.topic = inbound.topic.name
        self._consumer: AIOKafkaConsumer | None = None
        self._log: str | None = None
        self._applying = 0
        self._applied: dict[TopicPartition, int] = {}
        """Offsets up to which all is applied, not committed yet."""
        self._careful = False
        self.connected = False
        self.store_ok = True
        for metric in (DEAD_LETTERED, HANDLER_FAILURES):
            count(metric, inbound.service, self.topic, by=0)

    async def run(self) -> None:
        """Consume until cancelled, over every loss of Kafka or the store."""
        self.connected, self.store_ok = False, True
        backoff = Backoff(self._clock)
        while True:
            try:
                async with self._kafka.consumer(self._inbound.service, self._inbound.topic) as consumer:
                    self._consumer = consumer
                    await self._consume(consumer, backoff)
            except UNREACHABLE as error:
                logger.warning("%s: reconnects: %r", self.name, error)
            except UnicodeDecodeError as error:
                logger.warning("%s: the client cannot read a record: %s", self.name, error)
                self._careful = True
            except Exception:
                logger.exception("%s: the client broke; it is built anew", self.name)
            self.connected, self._consumer = False, None
            await backoff.wait()

    async def lag(self) -> int | None:
        """Return how many records are on the log but not applied, by the last fetch; None before there was one."""
        consumer, behind = self._consumer, None
        if consumer is None:
            return None
        try:
            for partition in consumer.assignment():
                end = consumer.highwater(partition)
                if end is not None:
                    behind = (behind or 0) + max(0, end - await consumer.position(partition))
        except KafkaError:  # it has just been taken away
            return None
        return None if behind is None else behind + self._applying

    async def _consume(self, consumer: AIOKafkaConsumer, backoff: Backoff) -> None:
        answers, assigned = Answers(consumer, self._clock), self._clock.monotonic()
        compared = committed = self._clock.monotonic()
        self._applied = {}
        while True:
            if self._clock.monotonic() - compared > self._compare_every:
                await self._compare_log(consumer)
                compared = self._clock.monotonic()
            silent = answers.silent_for()
            self.connected = silent < AWAY_AFTER
            if silent > STUCK_AFTER:
                raise KafkaError(f"no answer to a fetch for {STUCK_AFTER:.0f} s")
            if consumer.assignment():
                assigned = self._clock.monotonic()
            elif self._clock.monotonic() - assigned > AWAY_AFTER:
                self._ask_for_partitions(consumer)
                assigned = self._clock.monotonic()
            careful = self._careful
            polled = await self._poll(consumer)
            if polled:
                records = [record for batch in polled.values() for record in batch]
                self._applying = len(records)
                crash.point("consumer.polled")
                if self._at_leisure and len(records) < POLL_RECORDS:
                    await self._clock.sleep(GATHER)
                self._note(consumer, polled, await self._apply(records))
                crash.point("consumer.applied")
                self._applying = 0
                answers.note()
                backoff.reset()
            # What was read record by record is committed at once: the next that cannot be read breaks the client.
            if self._applied and (careful or not polled or self._clock.monotonic() - committed > COMMIT_EVERY):
                await self._commit(consumer)
                crash.point("consumer.committed")
                committed = self._clock.monotonic()
            if polled and self._inbound.topic is PULSE:
                await self._clock.sleep(GATHER)

    async def _compare_log(self, consumer: AIOKafkaConsumer) -> None:
        """Read a topic that was deleted and made anew from its beginning.

        The client may not have noticed, and would go on in the new one where it was in the old one.
        """
        found = (await self._kafka.topic_ids()).get(self.topic)
        if found and self._log and found != self._log and consumer.assignment():
            logger.warning("%s: the topic is another one; it is read from its beginning", self.name)
            self._applied = {}
            await consumer.seek_to_beginning()
        self._log = found or self._log

    def _ask_for_partitions(self, consumer: AIOKafkaConsumer) -> None:
        """Get out of having nothing to read, which is right only for one of several members.

        A topic that is lost with its log leaves both behind: a client that looks for it again after five minutes,
        and a group that gives a static member, whenever it comes back, the nothing that it was given last.
        """
        if not consumer.partitions_for_topic(self.topic):
            raise KafkaError("the topic is not there")
        if self._kafka.static_members:
            logger.warning("%s: was given nothing to read; joins its group again", self.name)
            consumer.subscribe([self.topic])

    async def _poll(self, consumer: AIOKafkaConsumer) -> Polled:
        if not self._careful:
            wait = int(1000 * COMMIT_EVERY) if self._applied else POLL_MS
            polled: Polled = await consumer.getmany(timeout_ms=wait, max_records=POLL_RECORDS)
            return polled
        # aiokafka fails a whole poll for one header whose name is not UTF-8. Read record by record up to that one.
        for partition in consumer.assignment():
            try:
                polled = await consumer.getmany(partition, timeout_ms=POLL_MS // 10, max_records=1)
            except UnicodeDecodeError as error:
                offset = await consumer.position(partition)
                consumer.seek(partition, offset + 1)
                self._careful = False
                headers = [("ce_id", error.object)]
                return {partition: [Reread(partition.topic, partition.partition, offset, None, None, headers)]}
            if polled:
                return polled
        await self._clock.sleep(POLL_MS / 10_000)
        return {}

    async def _apply(self, records: Sequence[Record]) -> int:
        """Apply records and return how many, waiting for the store as long as it takes: nothing is skipped."""
        started = self._clock.monotonic()
        backoff = Backoff(self._clock)
        one_by_one, done = False, 0
        while done < len(records):
            try:
                if one_by_one:
                    await apply_each(records[done : done + 1], self._inbound)
                    done += 1
                else:
                    turn = records[done : done + TURN]
                    await apply(turn, self._inbound)
                    done += len(turn)
                self.store_ok = True
            except StoreUnavailable as error:
                self.store_ok = False
                logger.warning("%s: the store does not answer: %s", self.name, error)
                await backoff.wait()
            except Exception:
                if one_by_one:
                    raise
                logger.info("%s: a record of %d fails; one by one", self.name, len(records), exc_info=True)
                one_by_one = True
            if one_by_one and done and self._clock.monotonic() - started > BUDGET:
                break
        return done

    def _note(self, consumer: AIOKafkaConsumer, polled: Polled, applied: int) -> None:
        """Note what was applied, seek back to what was not."""
        for partition, batch in polled.items():
            done, applied = min(applied, len(batch)), max(applied - len(batch), 0)
            if done:
                self._applied[partition] = batch[done - 1].offset + 1
            if done < len(batch):
                with suppress(IllegalStateError):  # it moved on to another member, which reads all of it
                    consumer.seek(partition, batch[done].offset)

    async def _commit(self, consumer: AIOKafkaConsumer) -> None:
        """Commit what was applied."""
        own = consumer.assignment()
        offsets, self._applied = {one: at for one, at in self._applied.items() if one in own}, {}
        try:
            if offsets:
                await _to_its_end(consumer.commit(offsets))
        except (CommitFailedError, IllegalStateError) as error:
            # The partitions moved on to another member, which will read these records again and ignore them.
            logger.info("%s: not committed: %r", self.name, error)


async def _to_its_end(commit: Coroutine[None, None, None]) -> None:
    # Cancelled in the middle, aiokafka leaves a task behind that fails later with nobody to tell.
    task = asyncio.create_task(commit)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=1)
        raise


class Answers:
    """When a consumer's broker answered last, as aiokafka notes it with every fetch."""

    def __init__(self, consumer: AIOKafkaConsumer, clock: Clock) -> None:
        self._consumer = consumer
        self._clock = clock
        self._seen: object = None
        self._heard = clock.monotonic()

    def note(self) -> None:
        """Take what just happened as an answer."""
        self._heard = self._clock.monotonic()

    def silent_for(self) -> float:
        """Return the seconds since the last answer; 0 for a member that waits without a partition."""
        assigned = self._consumer.assignment()
        seen = {partition: self._consumer.last_poll_timestamp(partition) for partition in assigned}
        if seen != self._seen or not assigned:
            self._seen = seen
            self.note()
        return self._clock.monotonic() - self._heard
