"""The consumer loop: poll, apply in one transaction, commit exact offsets. One consumer per service and topic.

Raw aiokafka under our own life cycle (docs/decisions/0001): every path ends in a commit of exactly what was
applied, or in a pause and a seek back. A client that is stuck or cut off is thrown away and built anew.
"""

import logging
from collections.abc import Mapping, Sequence

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.apply import Inbound, apply, apply_each
from trainwright.runtime.clock import Backoff
from trainwright.runtime.kafka import UNREACHABLE, Kafka

logger = logging.getLogger(__name__)

POLL_RECORDS = 200
POLL_MS = 1000
STUCK_AFTER = 60.0
"""Seconds without progress, while records wait, after which a client is rebuilt (seen after broker restarts)."""

Polled = Mapping[TopicPartition, Sequence[ConsumerRecord]]


class ConsumerLoop:
    """Reads one topic for one service."""

    def __init__(self, inbound: Inbound, kafka: Kafka) -> None:
        self._inbound = inbound
        self._kafka = kafka
        self._clock = inbound.clock
        self._progress = 0.0
        self.name = f"{inbound.service}<-{inbound.topic.name}"
        self.connected = False
        self.store_ok = True

    async def run(self) -> None:
        """Consume until cancelled, over every loss of Kafka or the store."""
        backoff = Backoff(self._clock)
        while True:
            try:
                async with self._kafka.consumer(self._inbound.service, self._inbound.topic) as consumer:
                    self.connected = True
                    backoff.reset()
                    await self._consume(consumer)
            except UNREACHABLE as error:
                logger.warning("%s: reconnects: %r", self.name, error)
            self.connected = False
            await backoff.wait()

    async def _consume(self, consumer: AIOKafkaConsumer) -> None:
        self._progress = self._clock.monotonic()
        while True:
            polled: Polled = await consumer.getmany(timeout_ms=POLL_MS, max_records=POLL_RECORDS)
            if polled:
                await self._apply(polled)
                await self._commit(consumer, polled)
                self._progress = self._clock.monotonic()
            elif self._clock.monotonic() - self._progress > STUCK_AFTER:
                await self._check_not_stuck(consumer)

    async def _apply(self, polled: Polled) -> None:
        """Apply a poll, waiting for the store as long as it takes: nothing is skipped, nothing else is read."""
        records = [record for batch in polled.values() for record in batch]
        backoff = Backoff(self._clock)
        one_by_one = False
        while True:
            try:
                await (apply_each if one_by_one else apply)(records, self._inbound)
                self.store_ok = True
                return
            except StoreUnavailable as error:
                self.store_ok = False
                logger.warning("%s: the store does not answer: %s", self.name, error)
                await backoff.wait()
            except Exception:
                if one_by_one:
                    raise
                logger.info("%s: a record of %d fails; one by one", self.name, len(records), exc_info=True)
                one_by_one = True

    async def _commit(self, consumer: AIOKafkaConsumer, polled: Polled) -> None:
        offsets = {partition: batch[-1].offset + 1 for partition, batch in polled.items()}
        try:
            await consumer.commit(offsets)
        except (CommitFailedError, IllegalStateError) as error:
            # The partitions moved on to another member, which will read these records again and ignore them.
            logger.info("%s: not committed: %r", self.name, error)

    async def _check_not_stuck(self, consumer: AIOKafkaConsumer) -> None:
        assigned = consumer.assignment()
        ends = await self._kafka.end_offsets(list(assigned)) if assigned else {}
        behind = [tp for tp in assigned if await consumer.position(tp) < ends.get(tp, 0)]
        if behind:
            raise KafkaError(f"no record for {STUCK_AFTER:.0f} s although {behind} has some")
        self._progress = self._clock.monotonic()
