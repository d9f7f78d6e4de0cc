"""The real services as programs of a simulation: their own composition, lease, consumers, relay and loops."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from tests.simulation.bus import SimKafka, SimLog
from tests.simulation.world import Crash, Life, Program, SimClock, World
from trainwright.contracts.errors import StoreUnavailable, TrainwrightError
from trainwright.runtime import consumer
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, Reactions
from trainwright.runtime.envelope import Cause
from trainwright.runtime.jobs import Job, repeated
from trainwright.runtime.lease import Lease
from trainwright.runtime.outbox import emit
from trainwright.runtime.relay import Relay
from trainwright.runtime.service import Service
from trainwright.storage.document import Collection
from trainwright.storage.memory import MemoryState, MemoryStore

Build = Callable[[Any], Service]
LEASE_SECONDS = 8.0
LOOK_EVERY = 0.5
"""Virtual seconds between looks for commits of the other processes of a service."""


class SimRuntime:
    """What a service is built from, for one life of it."""

    def __init__(self, life: Life, log: SimLog, state: MemoryState) -> None:
        self.clock = SimClock(life.program.world)
        self.kafka = SimKafka(log, life)
        self._life = life
        self._state = state

    def store(self, name: str, collections: Sequence[Collection]) -> MemoryStore:
        return MemoryStore((*collections, DEAD_LETTERS), self._life.at, self._state)

    def blobs(self) -> None:
        """Return nothing: what needs files is not simulated."""


class SimService(Program):
    """One process of a service, as ``services.<name>.build_service`` makes it; ``beside`` is another one of it."""

    def __init__(
        self, world: World, log: SimLog, name: str, build: Build, beside: "SimService | None" = None
    ) -> None:
        super().__init__(world, name, None if beside is None else beside.state)
        self.service: Service | None = None
        self.reactions: Reactions = {}
        self.lease: Lease | None = None
        self.is_alone = beside is None
        if beside is not None:
            beside.is_alone = False
        self._log = log
        self._build = build

    def boot(self, life: Life) -> None:
        runtime = SimRuntime(life, self._log, self.state)
        service = self.service = self._build(runtime)
        self.reactions = service.reactions
        kafka: Any = runtime.kafka
        clock, store = runtime.clock, service.store
        leads: list[Job] = [Relay(self.name, store, kafka, clock).run, *service.tasks]
        for loop in service.loops:
            leads.append(repeated(loop.run, every=loop.every, name=loop.name, clock=clock))
        inbound = [
            Inbound(self.name, topic, handlers, store, clock, service.follow_up)
            for topic, handlers in service.reactions.items()
        ]
        consumers: list[Job] = [consumer.ConsumerLoop(one, kafka).run for one in inbound]
        if service.exclusive:
            leads += consumers
        else:
            for job in consumers:
                life.spawn(job())
        if not self.is_alone:
            look = store.look_for_commits
            life.spawn(repeated(look, every=LOOK_EVERY, name="look for commits", clock=clock)())
        self.lease = Lease(self.name, store, clock, length=LEASE_SECONDS, alone=self.is_alone)
        life.spawn(self.lease.run(leads))


async def asked(program: SimService, request: Callable[..., Any]) -> Any:
    """Make a request of a service until it answers, as a patient client does; None when it is refused."""
    world = program.world
    clock = SimClock(world)
    while True:
        life, service = program.life, program.service
        if life is not None and service is not None and not world.loop.is_held(program):
            try:
                async with service.store.transaction() as tx:
                    answer, events = await request(tx=tx, clock=clock)
                    cause = Cause(clock.new_id("request"))
                    await emit(tx, events, source=program.name, cause=cause, clock=clock)
                return answer
            except (StoreUnavailable, Crash):
                pass
            except TrainwrightError:
                return None
        await asyncio.sleep(0.5)
