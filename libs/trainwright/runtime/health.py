"""Health of one service: is its store there, does Kafka answer, how much waits to be sent."""

from collections.abc import Sequence
from typing import Literal

from trainwright.contracts.base import Contract
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.relay import Relay
from trainwright.storage.document import DocumentStore


class Readiness(Contract):
    """`GET /health/ready`: `ok`; `degraded` while Kafka is away (requests are still accepted); or `down`."""

    service: str
    status: Literal["ok", "degraded", "down"]
    store: bool
    kafka: bool
    outbox: int = 0
    detail: str = ""


class Health:
    """Watches one service's parts."""

    def __init__(
        self, service: str, store: DocumentStore, relay: Relay, consumers: Sequence[ConsumerLoop]
    ) -> None:
        self._service = service
        self._store = store
        self._relay = relay
        self._consumers = consumers

    async def ready(self) -> Readiness:
        """Return the state now."""
        connected = self._relay.connected and all(loop.connected for loop in self._consumers)
        try:
            outbox = await self._store.outbox_depth()
        except StoreUnavailable as error:
            return Readiness(
                service=self._service, status="down", store=False, kafka=connected, detail=error.detail
            )
        if not all(loop.store_ok for loop in self._consumers):
            return Readiness(
                service=self._service,
                status="down",
                store=False,
                kafka=connected,
                detail="store refuses writes",
            )
        return Readiness(
            service=self._service,
            status="ok" if connected else "degraded",
            store=True,
            kafka=connected,
            outbox=outbox,
            detail="" if connected else "Kafka does not answer; what is accepted is sent when it does",
        )
