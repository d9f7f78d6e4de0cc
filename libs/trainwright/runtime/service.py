"""What a service is made of, and what it is given. ``run.py`` brings it to life."""

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.types import ASGIApp

from trainwright.runtime.apply import DEAD_LETTERS, Reactions
from trainwright.runtime.clock import Clock, SystemClock
from trainwright.runtime.effects import EffectHandler
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.blob import BlobStore
from trainwright.storage.directory import DirectoryBlobs
from trainwright.storage.document import Collection
from trainwright.storage.sqlite import SqliteStore


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
    store: SqliteStore
    reactions: Reactions = field(default_factory=dict)
    router: APIRouter | None = None
    loops: Sequence[Loop] = ()
    tasks: Sequence[Callable[[], Coroutine[None, None, None]]] = ()
    effects: Mapping[str, EffectHandler] = field(default_factory=dict)
    edge: Callable[[ASGIApp], ASGIApp] | None = None
    """Wraps the service's own HTTP app: how the gateway stands in front of the others."""


@dataclass(slots=True)
class Runtime:
    """What services are built from: settings, clock, clients, engines."""

    settings: RuntimeSettings
    clock: Clock = field(default_factory=SystemClock)
    apps: dict[str, ASGIApp] = field(default_factory=dict)
    """HTTP edges of the services in this process, by name; complete once all are built."""

    @property
    def kafka(self) -> Kafka:
        return Kafka(self.settings)

    def store(self, name: str, collections: Sequence[Collection], schema: str = "") -> SqliteStore:
        """Return a service's own store; every one can keep dead letters."""
        folder = self.settings.folder(self.settings.store, "sqlite")
        return SqliteStore(folder / f"{name}.db", (*collections, DEAD_LETTERS), schema)

    def blobs(self) -> BlobStore:
        """Return the blob store."""
        return DirectoryBlobs(self.settings.folder(self.settings.blobs, "dir"))


Builder = Callable[[Runtime], Service]
