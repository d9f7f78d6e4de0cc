"""What the scheduler does about each fact. It folds whole documents, so that no single event is needed.

Placing itself is not here (``passes.py``): these handlers only say that something changed, by waking the pass.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from services.scheduler.domain import stop_wish, wants_place
from services.scheduler.leases import Leases
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import (
    ALIVE,
    DRAINING,
    LOST,
    STOPPED,
    Entry,
    WorkerEntry,
    assigned,
    find_entry,
    find_worker,
    save_entry,
    save_worker,
)
from trainwright.contracts.attempt import AttemptEnded
from trainwright.contracts.base import Event
from trainwright.contracts.command import StopAttempt
from trainwright.contracts.pulse import SchedulerProbed, WorkerHeartbeat
from trainwright.contracts.queue import (
    Placement,
    PlacementAssigned,
    PlacementReleased,
    PlacementState,
    WorkerLost,
)
from trainwright.contracts.task import FINAL, StopKind, TaskDocument, TaskEvent
from trainwright.contracts.worker import AttemptRef, WorkerEvent
from trainwright.runtime.clock import Clock
from trainwright.runtime.envelope import TRACE
from trainwright.storage.document import Transaction

QUEUED, ASSIGNED, RELEASED = PlacementState.QUEUED, PlacementState.ASSIGNED, PlacementState.RELEASED


@dataclass(slots=True)
class Handlers:
    """The scheduler's reactions, with what they share: leases, and the bell that wakes the pass."""

    leases: Leases
    settings: SchedulerSettings
    wake: Callable[[], None]
    scheduler_id: str

    async def on_task_changed(self, event: TaskEvent, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Queue a task that wants a place; stop the run of one that must not go on."""
        task = event.task
        entry = await find_entry(tx, task.task_id) or _new_entry(task, clock)
        entry = replace(entry, task=task, traceparent=TRACE.get())
        events: list[Event] = []
        placement = entry.placement
        seen = task.attempt >= placement.attempt  # else the task has not heard of its newest placement yet
        wish = stop_wish(task)
        if wants_place(task) and placement.state is not QUEUED and (seen or placement.state is RELEASED):
            entry = _queue(entry, clock)
        elif wish is not None and placement.state is QUEUED:
            entry = entry.moved(clock.now(), state=RELEASED, reason="not wanted any more")
            events.append(PlacementReleased(placement=entry.placement))
        elif task.status in FINAL and placement.state is ASSIGNED and seen:
            entry = entry.moved(clock.now(), state=RELEASED, reason=f"task {task.status}")
            events.append(PlacementReleased(placement=entry.placement))
        elif wish is not None and placement.state is ASSIGNED:
            events.append(self._stop(placement, wish, task.reason))
        await save_entry(tx, entry)
        self.wake()
        return events

    async def on_attempt_ended(self, event: AttemptEnded, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Free the slots of an attempt that is over."""
        attempt = event.attempt
        entry = await find_entry(tx, attempt.task_id)
        if entry is None or not _holds(entry, attempt.attempt):
            return []
        entry = entry.moved(clock.now(), state=RELEASED, reason=f"attempt {attempt.attempt} ended")
        await save_entry(tx, entry)
        self.wake()
        return [PlacementReleased(placement=entry.placement)]

    async def on_worker_changed(self, event: WorkerEvent, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Take a worker in, or let it go; attempts that a new incarnation does not know are over."""
        worker = event.worker
        known = await find_worker(tx, worker.worker_id)
        if known is None or known.worker.incarnation != worker.incarnation:
            self.leases.arrived(worker.worker_id)
        state = STOPPED if worker.stopped else DRAINING if worker.draining else ALIVE
        await save_worker(tx, WorkerEntry(worker, state))
        adopted = {(ref.task_id, ref.attempt) for ref in worker.adopted}
        events: list[Event] = []
        for entry in await assigned(tx, worker.worker_id):
            placement = entry.placement
            if (placement.task_id, placement.attempt) in adopted and not worker.stopped:
                if placement.incarnation != worker.incarnation:
                    entry = entry.moved(clock.now(), incarnation=worker.incarnation, reason="found again")
                    await save_entry(tx, entry)
                    events.append(PlacementAssigned(placement=entry.placement))
            elif placement.incarnation != worker.incarnation:
                events.append(await lose(entry, "its worker started anew without it", tx=tx, clock=clock))
            elif worker.stopped:
                events.append(await lose(entry, "its worker stopped", tx=tx, clock=clock))
        self.wake()
        return events

    async def on_heartbeat(self, event: WorkerHeartbeat, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Renew a lease; end runs that the worker should not have any more."""
        known = await find_worker(tx, event.worker_id)
        if known is None or known.worker.incarnation != event.incarnation:
            return []
        self.leases.heard(event)
        if known.state == LOST:
            await save_worker(tx, WorkerEntry(known.worker, ALIVE))
            self.wake()
        events: list[Event] = []
        for ref in event.running:
            entry = await find_entry(tx, ref.task_id)
            if entry is not None and _is_fenced(entry, ref, event):
                events.append(self._stop_fenced(event, ref))
        return events

    async def on_probe(self, event: SchedulerProbed, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Note that our own path through Kafka works."""
        if event.scheduler == self.scheduler_id:
            self.leases.probe_seen(event.seq)
        return []

    def _stop(self, placement: Placement, kind: StopKind, reason: str) -> StopAttempt:
        assert placement.worker_id is not None  # an assigned placement has a worker
        assert placement.incarnation is not None
        return StopAttempt(
            worker_id=placement.worker_id,
            incarnation=placement.incarnation,
            task_id=placement.task_id,
            attempt=placement.attempt,
            kind=kind,
            grace_seconds=self.settings.stop_grace,
            reason=reason,
        )

    def _stop_fenced(self, heartbeat: WorkerHeartbeat, ref: AttemptRef) -> StopAttempt:
        return StopAttempt(
            worker_id=heartbeat.worker_id,
            incarnation=heartbeat.incarnation,
            task_id=ref.task_id,
            attempt=ref.attempt,
            kind=StopKind.PREEMPT,
            grace_seconds=0,
            reason="this attempt was given up; another one took its place",
        )


async def lose(entry: Entry, why: str, *, tx: Transaction, clock: Clock) -> WorkerLost:
    """Give an attempt up: free its slots and fence it."""
    entry = entry.moved(clock.now(), state=RELEASED, reason=why)
    await save_entry(tx, entry)
    return WorkerLost(placement=entry.placement)


def _new_entry(task: TaskDocument, clock: Clock) -> Entry:
    now = clock.now()
    return Entry(task, Placement(task_id=task.task_id, version=0, state=RELEASED, updated_at=now))


def _queue(entry: Entry, clock: Clock) -> Entry:
    entry = entry.moved(clock.now(), state=QUEUED, worker_id=None, incarnation=None, reason="queued")
    return replace(entry, assigned_at=None, told="")


def _holds(entry: Entry, attempt: int) -> bool:
    return entry.placement.state is ASSIGNED and entry.placement.attempt == attempt


def _is_fenced(entry: Entry, ref: AttemptRef, heartbeat: WorkerHeartbeat) -> bool:
    """Return whether a run that a worker lists was given up. A heartbeat may be older than what we know."""
    placement = entry.placement
    if ref.attempt != placement.attempt:
        return ref.attempt < placement.attempt
    return placement.state is not ASSIGNED and heartbeat.time > placement.updated_at
