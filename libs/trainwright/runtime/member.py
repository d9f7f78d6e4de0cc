"""One service in one process: what it waits for, what every process of it does, what only its leader does."""

import asyncio
from collections.abc import Sequence

from trainwright.runtime import engines
from trainwright.runtime.apply import Inbound
from trainwright.runtime.consumer import ConsumerLoop
from trainwright.runtime.effects import EffectRunner
from trainwright.runtime.health import Health
from trainwright.runtime.http import build_app
from trainwright.runtime.jobs import Job, after, repeated, together
from trainwright.runtime.lease import Lease
from trainwright.runtime.relay import Relay
from trainwright.runtime.service import Runtime, Service
from trainwright.runtime.waits import Waits

LOOK_EVERY = 0.05
"""Seconds between looks for commits of other processes; what they wrote is seen by then."""


class Member:
    """A service as this process takes part in it. Its HTTP edge answers from the beginning."""

    def __init__(self, service: Service, runtime: Runtime, waits: Waits, topics_ready: asyncio.Event) -> None:
        self._service = service
        self._runtime = runtime
        self._waits = waits
        self._topics_ready = topics_ready
        kafka, clock, settings = runtime.kafka, runtime.clock, runtime.settings
        self._leader_consumes = service.exclusive or settings.static_members
        """Of two processes by mistake, the one that was taken over from fights for no partitions either."""
        self._relay = Relay(service.name, service.store, kafka, clock)
        self._consumers = [
            ConsumerLoop(
                Inbound(service.name, topic, handlers, service.store, clock, service.follow_up),
                kafka,
                at_leisure=topic in service.at_leisure,
            )
            for topic, handlers in service.reactions.items()
        ]
        self._lease = Lease(
            service.name, service.store, clock, length=settings.lease_seconds, alone=settings.static_members
        )
        self._health = Health(
            service.name,
            service.store,
            self._relay,
            self._consumers,
            waits=waits,
            lease=self._lease,
            exclusive=self._leader_consumes,
        )
        self._health.show(runtime.scrape)
        if service.figures is not None:
            runtime.scrape.add(service.figures)
        token = settings.internal_token
        runtime.apps[service.name] = build_app(service, self._health, runtime.scrape, token=token)

    async def run(self) -> None:
        """Wait for the store, then take part until cancelled."""
        settings, store = self._runtime.settings, self._service.store
        await self._waits.reach(engines.store_in_words(settings), store.open)
        shared: list[Job] = [
            self._know_kafka,
            *self._service.everywhere,
            lambda: self._lease.run(self._leaders_jobs()),
        ]
        if not self._leader_consumes:
            shared += self._consuming()
        if not settings.static_members:
            shared.append(self._repeated("look for commits of others", LOOK_EVERY, store.look_for_commits))
        await together(shared)

    async def _know_kafka(self) -> None:
        await self._topics_ready.wait()
        self._health.reached_kafka = True
        await asyncio.Event().wait()

    def _leaders_jobs(self) -> Sequence[Job]:
        service, clock = self._service, self._runtime.clock
        jobs: list[Job] = [after(self._topics_ready, self._relay.run), *service.tasks]
        jobs += [self._repeated(loop.name, loop.every, loop.run) for loop in service.loops]
        if service.effects:
            jobs.append(EffectRunner(service.name, service.store, service.effects, clock).run)
        return [*jobs, *self._consuming()] if self._leader_consumes else jobs

    def _consuming(self) -> list[Job]:
        return [after(self._topics_ready, loop.run) for loop in self._consumers]

    def _repeated(self, name: str, every: float, run: Job) -> Job:
        return repeated(run, every=every, name=f"{self._service.name}: {name}", clock=self._runtime.clock)
