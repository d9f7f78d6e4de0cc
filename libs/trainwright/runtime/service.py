"""What a service is made of, and what it is given. ``run.py`` brings it to life."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.types import ASGIApp

from trainwright.contracts.topics import Topic
from trainwright.runtime import engines
from trainwright.runtime.apply import DEAD_LETTERS, FollowUp, Reactions
from trainwright.runtime.clock import Clock, SystemClock
from trainwright.runtime.effects import EffectHandler
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.runtime.telemetry.scraping import Read, Scrape
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import Collection, DocumentStore
from trainwright.storage.records import Records
from trainwright.storage.series import Series


@dataclass(frozen=True, slots=True)
class Loop:
    """Something done again and again: a sweep, a pass. It must bear being cancelled at any await."""

    name: str
    every: float
    run: Callable[[], Coroutine[None, None, None]]


@dataclass(frozen=True, slots=True)
class Service:
    """One service: its store, what it reacts to, what it serves, what it does by itself."""

    name: str
    store: DocumentStore
    reactions: Reactions = field(default_factory=dict)
    follow_up: FollowUp | None = None
    """What follows from a turn of events as a whole, in the same transaction."""
    at_leisure: Sequence[Topic] = ()
    """Topics that it only follows: what it does about their events may come a moment later (``consumer.py``)."""
    router: APIRouter | None = None
    loops: Sequence[Loop] = ()
    tasks: Sequence[Callable[[], Coroutine[None, None, None]]] = ()
    effects: Mapping[str, EffectHandler] = field(default_factory=dict)
    everywhere: Sequence[Callable[[], Coroutine[None, None, None]]] = ()
    """What every process of the service does; its loops, tasks and effects are its leader's (``lease.py``)."""
    exclusive: bool = False
    """Only the leader consumes: what it decides by is in its memory."""
    edge: Callable[[ASGIApp], ASGIApp] | None = None
    """Wraps the service's own HTTP app: how the gateway stands in front of the others."""
    figures: Read | None = None
    """Reads the gauges that only this service has, from its store."""


@dataclass(slots=True)
class Runtime:
    """What services are built from: settings, clock, clients, engines."""

    settings: RuntimeSettings
    clock: Clock = field(default_factory=SystemClock)
    apps: dict[str, ASGIApp] = field(default_factory=dict)
    """HTTP edges of the services in this process, by name; complete once all are built."""
    scrape: Scrape = field(default_factory=Scrape)
    """What this process answers at `/metrics`."""
    blob_store: BlobStore | None = None
    """The blob store, once a service has asked for it."""

    @property
    def kafka(self) -> Kafka:
        return Kafka(self.settings)

    def store(self, name: str, collections: Sequence[Collection]) -> DocumentStore:
        """Return a service's own store; every one can keep dead letters."""
        return engines.documents(self.settings, name, (*collections, DEAD_LETTERS))

    def series(self, name: str, collections: Sequence[Collection]) -> tuple[DocumentStore, Series]:
        """Return a service's own store, and the series beside its documents."""
        return engines.series(self.settings, name, (*collections, DEAD_LETTERS))

    def records(self, name: str, collections: Sequence[Collection]) -> tuple[DocumentStore, Records]:
        """Return a service's own store, and the log records beside its documents."""
        return engines.records(self.settings, name, (*collections, DEAD_LETTERS))

    def blobs(self) -> BlobStore:
        """Return the blob store."""
        self.blob_store = self.blob_store or engines.blobs(self.settings)
        return self.blob_store


Builder = Callable[[Runtime], Service]
