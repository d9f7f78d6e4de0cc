"""What the scheduler does by itself: the placing pass, the sweep for lost workers and attempts, the probe."""

import asyncio
import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace

from services.scheduler.domain import Seat, plan
from services.scheduler.handlers import lose
from services.scheduler.leases import Leases
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import (
    ALIVE,
    DRAINING,
    LOST,
    Entry,
    WorkerEntry,
    assigned,
    find_entry,
    find_worker,
    get_entry,
    queued,
    save_entry,
    save_worker,
    workers,
)
from trainwright.contracts.base import Event
from trainwright.contracts.command import RunAttempt
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.pulse import SchedulerProbed
from trainwright.contracts.queue import PlacementAssigned, PlacementState, TaskQueued
from trainwright.contracts.resource import Slots
from trainwright.contracts.worker import AttemptRef
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import emit
from trainwright.runtime.pulse import PulseSender
from trainwright.storage.document import DocumentStore, Transaction

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Passes:
    """The scheduler's own work over its store."""

    store: DocumentStore
    leases: Leases
    settings: SchedulerSettings
    clock: Clock
    pulses: PulseSender
    scheduler_id: str
    _bell: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Ask for a pass: the queue or the capacity changed."""
        self._bell.set()

    async def place_for_ever(self) -> None:
        """Run a pass whenever somebody rang."""
        backoff = Backoff(self.clock)
        self.wake()
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self.place()
                backoff.reset()
            except StoreUnavailable as error:
                logger.warning("placing waits: %s", error)
                self.wake()
                await backoff.wait()

    async def place(self) -> None:
        """Give waiting tasks their places, in order, in one transaction."""
        async with self.store.transaction() as tx:
            queue = await queued(tx)
            if not queue:
                return
            taken: dict[str, list[Slots]] = defaultdict(list)
            for entry in await assigned(tx):
                taken[str(entry.placement.worker_id)].append(entry.placement.slots)
            found = plan(
                [item.waiting for item in queue],
                [known.worker for known in await workers(tx, ALIVE)],
                taken,
                self.clock.now(),
            )
            for seat in found.seats:
                await self._assign(seat, tx)
            for item in queue:
                reason = found.reasons.get(item.waiting.task_id, item.told)
                if reason != item.told:
                    await self._tell(item.waiting.task_id, reason, tx)

    async def sweep(self) -> None:
        """Give up workers that were silent for their lease, and attempts that their worker does not know."""
        self.leases.tick()
        for known in await workers(self.store, ALIVE, DRAINING):
            if self.leases.is_expired(known.worker.worker_id):
                await self._lose_worker(known.worker.worker_id)
        for entry in await assigned(self.store):
            why = self._unknown_to_its_worker(entry)
            if why is not None:
                await self._lose_attempt(entry.task.task_id, entry.placement.version, why)
        self.wake()  # tasks whose time to try again has come

    async def probe(self) -> None:
        """Send a probe of our own path through Kafka."""
        now = self.clock.now()
        probe = SchedulerProbed(scheduler=self.scheduler_id, seq=self.leases.next_probe(), time=now)
        self.pulses.send("probe", probe)

    async def _assign(self, seat: Seat, tx: Transaction) -> None:
        entry, now = await get_entry(tx, seat.task_id), self.clock.now()
        attempt = max(entry.placement.attempt, entry.task.attempt) + 1
        entry = entry.moved(
            now,
            state=PlacementState.ASSIGNED,
            attempt=attempt,
            worker_id=seat.worker.worker_id,
            incarnation=seat.worker.incarnation,
            slots=seat.slots,
            reason="",
        )
        await save_entry(tx, replace(entry, assigned_at=now, told=""))
        command = RunAttempt(
            worker_id=seat.worker.worker_id,
            incarnation=seat.worker.incarnation,
            task_id=entry.task.task_id,
            attempt=attempt,
            name=entry.task.name,
            config=entry.task.config,
            slots=seat.slots,
        )
        await self._emit(tx, [PlacementAssigned(placement=entry.placement), command], entry)

    async def _tell(self, task_id: str, reason: str, tx: Transaction) -> None:
        entry = (await get_entry(tx, task_id)).moved(self.clock.now(), reason=reason)
        await save_entry(tx, replace(entry, told=reason))
        await self._emit(tx, [TaskQueued(placement=entry.placement)], entry)

    async def _lose_worker(self, worker_id: str) -> None:
        async with self.store.transaction() as tx:
            known = await find_worker(tx, worker_id)
            if known is None or known.state == LOST or not self.leases.is_expired(worker_id):
                return
            silence = self.leases.silence(worker_id)
            logger.warning("worker %s is lost: silent for %.1f s", worker_id, silence)
            await save_worker(tx, WorkerEntry(known.worker, LOST))
            for entry in await assigned(tx, worker_id):
                event = await lose(entry, f"its worker was silent for {silence:.0f} s", tx=tx, clock=self.clock)
                await self._emit(tx, [event], entry)

    async def _lose_attempt(self, task_id: str, version: int, why: str) -> None:
        async with self.store.transaction() as tx:
            entry = await find_entry(tx, task_id)
            if entry is not None and entry.placement.version == version:
                await self._emit(tx, [await lose(entry, why, tx=tx, clock=self.clock)], entry)

    def _unknown_to_its_worker(self, entry: Entry) -> str | None:
        placement = entry.placement
        pulse = self.leases.pulses.get(str(placement.worker_id))
        if pulse is None or entry.assigned_at is None or pulse.heartbeat.incarnation != placement.incarnation:
            return None
        age = (pulse.heartbeat.time - entry.assigned_at).total_seconds()
        ref = AttemptRef(task_id=placement.task_id, attempt=placement.attempt)
        if ref in pulse.heartbeat.running:
            return None
        if ref in pulse.heartbeat.ended:
            return "its end was not told" if age > self.settings.ended_after else None
        return "its worker does not know it" if age > self.settings.unknown_after else None

    async def _emit(self, tx: Transaction, events: list[Event], entry: Entry) -> None:
        id = derived_id("scheduler", entry.task.task_id, entry.placement.version)
        cause = Cause(id, entry.traceparent)
        await emit(tx, events, source="scheduler", cause=cause, clock=self.clock)
