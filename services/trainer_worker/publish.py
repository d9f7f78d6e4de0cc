"""Publish what attempts say: read their files, send, wait for the acknowledgement, then keep the offset.

The files are the spool: while Kafka is away nothing is read, and everything is read afterwards. Not here:
lifecycle events (they go through the outbox), heartbeats.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaProducer

from services.trainer_worker import store
from services.trainer_worker.domain import Read, key_of
from services.trainer_worker.tail import Batch, Tail
from trainwright import crash
from trainwright.contracts.base import Event
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.topics import TOPIC_OF
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import to_headers, wrap
from trainwright.runtime.kafka import UNREACHABLE, Kafka
from trainwright.runtime.telemetry.publishing import Publishing, Send
from trainwright.runtime.telemetry.tracing import unsampled
from trainwright.storage.document import DocumentStore

logger = logging.getLogger(__name__)

ROUND_SECONDS = 0.05
IDLE_SECONDS = 0.5
ACK_TIMEOUT = 10.0

OnRead = Callable[[str, Read], None]


class Publisher:
    """Publishes the tails of all attempts that run here, in rounds; each attempt gets one batch a round."""

    def __init__(self, source: str, kafka: Kafka, documents: DocumentStore, clock: Clock) -> None:
        self._source = source
        self._kafka = kafka
        self._documents = documents
        self._clock = clock
        self._tails: dict[str, Tail] = {}
        self._final: set[str] = set()
        self._drained: dict[str, asyncio.Event] = {}
        self._wake = asyncio.Event()
        self._publishing = Publishing(source, clock)
        self._traced: set[tuple[str, str]] = set()
        self.on_read: OnRead = lambda key, read: None

    def follow(self, tail: Tail) -> None:
        """Publish an attempt's files from now on."""
        self._tails[tail.attempt.key] = tail
        self._drained[tail.attempt.key] = asyncio.Event()
        self._wake.set()

    async def drain(self, key: str) -> Read:
        """Wait until all that an ended attempt has written is acknowledged; return how far that is."""
        if not self._tails[key].behind():
            return self._tails[key].read
        self._final.add(key)
        self._wake.set()
        await self._drained[key].wait()
        return self._tails[key].read

    def forget(self, key: str) -> None:
        """Stop following an attempt."""
        self._final.discard(key)
        self._drained.pop(key, None)
        self._traced = {traced for traced in self._traced if traced[0] != key}
        if (tail := self._tails.pop(key, None)) is not None:
            tail.close()

    def read(self, key: str) -> Read | None:
        """Return how far an attempt has been published; None when it is not followed (any more)."""
        tail = self._tails.get(key)
        return tail.read if tail is not None else None

    def behind(self) -> int:
        """Return how many bytes runs have written that are not acknowledged yet."""
        return sum(tail.behind() for tail in self._tails.values())

    async def run(self) -> None:
        """Publish until cancelled, over every loss of Kafka or the store."""
        backoff = Backoff(self._clock)
        while True:
            try:
                async with self._kafka.producer() as producer:
                    while True:
                        busy = await self._round(producer)
                        backoff.reset()
                        await self._pause(busy)
            except (*UNREACHABLE, StoreUnavailable) as error:
                logger.warning("metrics and logs wait in their files: %r", error)
            for tail in self._tails.values():
                tail.rewind()
            await backoff.wait()

    async def _pause(self, busy: bool) -> None:
        if busy:
            return
        self._wake.clear()
        delay = ROUND_SECONDS if self._tails else IDLE_SECONDS
        if self._final:
            await self._clock.sleep(ROUND_SECONDS / 5)
            return
        try:
            async with asyncio.timeout(delay):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _round(self, producer: AIOKafkaProducer) -> bool:
        """Publish one batch of each attempt; return whether there is more to read at once."""
        final = set(self._final)
        batches = {key: tail.next(final=key in final) for key, tail in self._tails.items()}
        events = [event for batch in batches.values() for event in batch.events]
        if events:
            async with asyncio.timeout(ACK_TIMEOUT):
                await self._send(producer, events)
            crash.point("agent.sent")
        await self._keep(batches)
        for key, batch in batches.items():
            if key in final and not batch.events and not batch.full and key in self._drained:
                self._final.discard(key)
                self._drained[key].set()
        return any(batch.full for batch in batches.values())

    async def _send(self, producer: AIOKafkaProducer, events: Sequence[Event]) -> None:
        acks: list[asyncio.Future[object]] = []
        sends: list[Send] = []
        for event in events:
            first = getattr(event, "points", None) or getattr(event, "records", None)
            stream = getattr(event, "stream", "metrics")
            whose = [rank] if (rank := getattr(event, "rank", None)) else []
            id = derived_id(event.subject, event.attempt_number, stream, first[0].seq if first else 0, *whose)
            trace = self._trace_of(event, stream)
            envelope = wrap(event, id=id, source=self._source, time=self._clock.now(), traceparent=trace)
            send = self._publishing.begin(TOPIC_OF[type(event)].name, to_headers(envelope))
            sent = await producer.send(
                send.topic,
                value=event.model_dump_json().encode(),
                key=event.subject.encode(),
                headers=[(name, value.encode()) for name, value in send.headers],
            )
            acks.append(sent)
            sends.append(send)
        await asyncio.gather(*acks)
        self._publishing.end(sends)

    def _trace_of(self, event: Event, stream: str) -> str | None:
        """Return the run's trace; of each of its streams only the first batch is recorded in it, they are many."""
        key = key_of(event.subject, event.attempt_number or 0)
        tail = self._tails.get(key)
        trace = tail.attempt.traceparent if tail is not None else None
        if (key, stream) in self._traced:
            return unsampled(trace)
        self._traced.add((key, stream))
        return trace

    async def _keep(self, batches: dict[str, Batch]) -> None:
        """Keep how far was read, of the attempts that are still followed and got further."""
        tails = self._tails
        changed = {
            key: batch.read for key, batch in batches.items() if key in tails and batch.read != tails[key].read
        }
        if not changed:
            return
        async with self._documents.transaction() as tx:
            for key, read in changed.items():
                await store.put_read(tx, key, read)
        for key, read in changed.items():
            if key in tails:
                tails[key].read = read
                self.on_read(key, read)
