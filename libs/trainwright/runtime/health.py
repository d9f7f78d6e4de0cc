"""Health of one service in one process: are its parts there, does Kafka answer, how much waits to be sent."""

import asyncio
from collections.abc import Sequence
from typing import Literal

from trainwright.contracts.base import Contract
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.apply import DEAD_LETTERS
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.lease import Lease
from trainwright.runtime.relay import Relay
from trainwright.runtime.telemetry.names import CONSUMER_LAG, KAFKA_UP, OUTBOX_DEPTH, STORE_UP
from trainwright.runtime.telemetry.names import DEAD_LETTERS as LETTERS
from trainwright.runtime.telemetry.scraping import Reading, Scrape
from trainwright.runtime.waits import Waits
from trainwright.storage.document import DocumentStore

ANSWER_SECONDS = 1.5
"""Time that the store has to answer; a driver may look for its server for longer than anybody wants to wait."""


class Readiness(Contract):
    """`GET /health/ready`: `ok`; `degraded` while Kafka is away (requests are still accepted); or `down`."""

    service: str
    status: Literal["ok", "degraded", "down"]
    store: bool
    kafka: bool
    outbox: int = 0
    detail: str = ""
    leads: bool = False
    """Whether this process does what only one of the service's may do."""
    waiting_for: list[str] = []
    """Parts that this process has not reached yet since it started, each with the reason."""


class Health:
    """Watches one service's parts."""

    def __init__(
        self,
        service: str,
        store: DocumentStore,
        relay: Relay,
        consumers: Sequence[ConsumerLoop],
        *,
        waits: Waits | None = None,
        lease: Lease | None = None,
        exclusive: bool = False,
    ) -> None:
        self._service = service
        self._store = store
        self._relay = relay
        self._consumers = consumers
        self._waits = waits
        self._lease = lease
        self._exclusive = exclusive
        self.reached_kafka = lease is None

    @property
    def connected(self) -> bool:
        """Return whether Kafka answers every client that is at work."""
        relay = self._relay.connected or self._stands_by
        return self.reached_kafka and relay and all(loop.connected for loop in self._working())

    def show(self, scrape: Scrape) -> None:
        """Have a process's figures show this."""
        scrape.add(self._read_store, [Reading(STORE_UP, (self._service,), 0)])
        scrape.add(self._read_clients)

    async def _read_store(self) -> Sequence[Reading]:
        own = (self._service,)
        return [
            Reading(OUTBOX_DEPTH, own, await self._store.outbox_depth()),
            Reading(LETTERS, own, await self._store.count(DEAD_LETTERS.name, {"replayed_at": None})),
            Reading(STORE_UP, own, 1),
        ]

    async def _read_clients(self) -> Sequence[Reading]:
        lags = [(loop.topic, await loop.lag()) for loop in self._consumers]
        known = [Reading(CONSUMER_LAG, (self._service, topic), lag) for topic, lag in lags if lag is not None]
        return [Reading(KAFKA_UP, (self._service,), self.connected), *known]

    async def ready(self) -> Readiness:
        """Return the state now."""
        connected, leads = self.connected, self._lease is None or self._lease.leads
        waiting_for = self._waits.now() if self._waits is not None else []
        there = Readiness(service=self._service, status="ok", store=True, kafka=connected, leads=leads)
        try:
            outbox = await asyncio.wait_for(self._store.outbox_depth(), ANSWER_SECONDS)
        except (StoreUnavailable, TimeoutError) as error:
            detail = getattr(error, "detail", f"the store says nothing for {ANSWER_SECONDS:g} s")
            news = {"status": "down", "store": False, "detail": detail, "waiting_for": waiting_for}
            return there.model_copy(update=news)
        if not all(loop.store_ok for loop in self._working()):
            return there.model_copy(update={"status": "down", "store": False, "detail": "store refuses writes"})
        if waiting_for:
            detail = f"waiting for {'; '.join(waiting_for)}"
            news = {"status": "down", "outbox": outbox, "detail": detail, "waiting_for": waiting_for}
            return there.model_copy(update=news)
        if not connected:
            detail = "Kafka does not answer; what is accepted is sent when it does"
            return there.model_copy(update={"status": "degraded", "outbox": outbox, "detail": detail})
        return there.model_copy(update={"outbox": outbox})

    @property
    def _stands_by(self) -> bool:
        return self._lease is not None and self._lease.stands_by

    def _working(self) -> Sequence[ConsumerLoop]:
        return () if self._exclusive and self._stands_by else self._consumers
