"""Pulses: events of which only the newest counts, sent straight to Kafka, dropped while it is away."""

import asyncio
import logging

from aiokafka import AIOKafkaProducer

from trainwright.contracts.base import Event
from trainwright.contracts.topics import TOPIC_OF
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.envelope import to_headers, wrap
from trainwright.runtime.kafka import UNREACHABLE, Kafka

logger = logging.getLogger(__name__)

SEND_TIMEOUT = 3.0
LONGEST_WAIT = 1.0
"""Seconds between tries at most: leases hang on pulses, and they run from the moment that Kafka is back."""


class PulseSender:
    """Sends the newest pulse of each slot; an older one that could not be sent is forgotten."""

    def __init__(self, service: str, kafka: Kafka, clock: Clock) -> None:
        self._service = service
        self._kafka = kafka
        self._clock = clock
        self._waiting: dict[str, Event] = {}
        self._wake = asyncio.Event()

    def send(self, slot: str, event: Event) -> None:
        """Send an event soon, in place of the one that still waits in the slot."""
        self._waiting[slot] = event
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled, over every loss of Kafka."""
        backoff = Backoff(self._clock, most=LONGEST_WAIT)
        while True:
            try:
                async with self._kafka.producer(durable=False) as producer:
                    while True:
                        await self._wake.wait()
                        self._wake.clear()
                        waiting, self._waiting = self._waiting, {}
                        sends = [self._send(producer, event) for event in waiting.values()]
                        async with asyncio.timeout(SEND_TIMEOUT):
                            await asyncio.gather(*sends)
                        backoff.reset()
            except UNREACHABLE as error:
                logger.warning("%s: pulses wait: %r", self._service, error)
            except Exception:
                logger.exception("%s: the pulses' client broke; it is built anew", self._service)
            await backoff.wait()

    async def _send(self, producer: AIOKafkaProducer, event: Event) -> None:
        id, now = self._clock.new_id("pulse"), self._clock.now()
        envelope = wrap(event, id=id, source=self._service, time=now, traceparent=None)
        await producer.send_and_wait(
            TOPIC_OF[type(event)].name,
            value=event.model_dump_json().encode(),
            key=event.subject.encode(),
            headers=[(name, text.encode()) for name, text in to_headers(envelope)],
        )
