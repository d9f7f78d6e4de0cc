"""What the scheduler does about each fact. It folds whole documents, so that no single event is needed.

Placing itself is not here (``passes.py``): these handlers only note what changed for the pass that follows.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from services.scheduler.domain.gangs import Ending
from services.scheduler.domain.tasks import is_over, past_key, stop_wish, wants_place
from services.scheduler.leases import Leases
from services.scheduler.members import (
    ended,
    lose,
    reincarnated,
    released,
    stop_commands,
    watched,
)
from services.scheduler.requests import cordon
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import (
    ALIVE,
    DRAINING,
    ENTRIES,
    LOST,
    PAST,
    RESERVATIONS,
    STOPPED,
    STRATEGIES,
    WORKERS,
    Cordon,
    Entry,
    Newest,
    WorkerEntry,
    assigned,
    changed_entry,
    find_entry,
    find_worker,
    newest_attempt,
    note_past,
    save_entry,
    save_worker,
)
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded
from trainwright.contracts.base import Event
from trainwright.contracts.command import GIVEN_UP, StopAttempt, UpdateParameters
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.gang import MemberEnded
from trainwright.contracts.parameters import ChangeState
from trainwright.contracts.pulse import SchedulerProbed, WorkerHeartbeat
from trainwright.contracts.queue import (
    Placement,
    PlacementAssigned,
    PlacementState,
)
from trainwright.contracts.quota import ReservationChanged, StrategyChanged, WorkerCordoned
from trainwright.contracts.task import StopKind, TaskDocument, TaskEvent
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerEvent
from trainwright.runtime.clock import Clock
from trainwright.runtime.telemetry.tracing import TRACE
from trainwright.storage.document import Collection, Transaction

Decided = StrategyChanged | ReservationChanged | WorkerCordoned
_KEPT_IN: dict[type[Event], Collection] = {
    StrategyChanged: STRATEGIES,
    ReservationChanged: RESERVATIONS,
    WorkerCordoned: WORKERS,
}
QUEUED, ASSIGNED, RELEASED = PlacementState.QUEUED, PlacementState.ASSIGNED, PlacementState.RELEASED


@dataclass(slots=True)
class Handlers:
    """The scheduler's reactions, with what they share: leases, and how a pass is asked for."""

    leases: Leases
    settings: SchedulerSettings
    note: Callable[[str, str], None]
    """Asks for a pass at the end of the turn; takes the collection and the name of what changed."""
    has_its_place: Callable[[str, int], bool]
    """Returns whether a task's attempt is known to have its place; if not, the store says how it is."""
    heeds_stop: Callable[[str], bool] = lambda task_id: False
    """The same of whether a task is known to heed a request to stop."""

    async def on_task_changed(self, event: TaskEvent, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Queue a task that wants a place, take it from one that does not, stop a run that must not go on."""
        task = event.task
        known = await changed_entry(tx, task, clock.now())
        entry, completes = known or (_new_entry(task, clock), False)
        if completes:
            await note_past(tx, past_key(task), task.ran_seconds)
            self.note(PAST.name, past_key(task))
        entry = replace(entry, traceparent=TRACE.get())
        events: list[Event] = []
        placement = entry.placement
        if placement.state is ASSIGNED and not is_over(task, placement.attempt):
            entry, events = self._pass_on(entry)
        elif wants_place(task) and task.attempt < placement.attempt:
            pass  # said before its newest attempt, which is over here: what follows from that it will say itself
        elif wants_place(task):
            if placement.state is ASSIGNED:  # we were not told its end: say that the place is free for others
                entry, events = released(entry, f"attempt {placement.attempt} is over", clock.now())
            entry = entry if placement.state is QUEUED else _queue(entry, clock)
        elif placement.state is not RELEASED:
            entry, events = released(entry, f"task {task.status}", clock.now())
        await save_entry(tx, entry)
        self.note(ENTRIES.name, task.task_id)
        return events

    async def on_attempt_ended(self, event: AttemptEnded, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Free the slots of an attempt that is over."""
        attempt = event.attempt
        events = await self._judge_worker(attempt, tx, clock)
        entry = await find_entry(tx, attempt.task_id)
        if entry is None or not _holds(entry, attempt.attempt):
            return events
        if entry.placement.members:
            ending = Ending(rank=0, worker_id=attempt.worker_id, outcome=attempt.outcome, reported=True)
            entry, news = ended(entry, ending, clock.now())
        else:
            entry, news = released(entry, f"attempt {attempt.attempt} ended", clock.now())
        await save_entry(tx, entry)
        self.note(ENTRIES.name, attempt.task_id)
        return [*events, *news]

    async def on_member_ended(self, event: MemberEnded, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Note that one of several workers is over with its part of an attempt."""
        member = event.member
        entry = await find_entry(tx, member.task_id)
        if entry is None or not _holds(entry, member.attempt):
            return []
        ending = Ending(
            rank=member.rank,
            worker_id=member.worker_id,
            outcome=member.outcome,
            failure=member.failure,
            peer_lost=member.peer_lost,
        )
        entry, events = ended(entry, ending, clock.now())
        await save_entry(tx, entry)
        self.note(ENTRIES.name, member.task_id)
        return events

    async def on_worker_changed(self, event: WorkerEvent, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Take a worker in, or let it go; attempts that a new incarnation does not know are over."""
        worker = event.worker
        known = await find_worker(tx, worker.worker_id)
        is_new = known is None or known.worker.incarnation != worker.incarnation
        if is_new or worker.returns_within is not None:
            self.leases.arrived(worker.worker_id)
        await save_worker(tx, _renewed(known, worker, clock))
        adopted = {(ref.task_id, ref.attempt) for ref in worker.adopted}
        events: list[Event] = []
        for entry in await assigned(tx, worker.worker_id):
            ref = entry.placement.task_id, entry.placement.attempt
            is_adopted = ref in adopted and not worker.stopped
            changed, news = _arrived(entry, worker, is_adopted, clock)
            await save_entry(tx, changed)
            events += news
            self.note(ENTRIES.name, ref[0])
        self.note(WORKERS.name, worker.worker_id)
        return events

    async def on_heartbeat(self, event: WorkerHeartbeat, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Renew a lease; end runs that the worker should not have any more."""
        known = await find_worker(tx, event.worker_id)
        if known is None:
            return []
        if known.worker.incarnation != event.incarnation:
            self.leases.heard_stranger(event)
            return []
        if event.worker_id not in self.leases.pulses:
            self.note(WORKERS.name, event.worker_id)
        for task_id in event.heeding:
            if self.heeds_stop(task_id):
                continue
            entry = await find_entry(tx, task_id)
            if entry is not None and not entry.heeds_stop:
                await save_entry(tx, replace(entry, heeds_stop=True))
                self.note(ENTRIES.name, task_id)
        self.leases.heard(event)
        if known.state == LOST and self.leases.healthy_since is not None:  # and not a word from before its loss
            await save_worker(tx, _renewed(known, known.worker, clock))
            self.note(WORKERS.name, event.worker_id)
        events: list[Event] = []
        for ref in event.running:
            if self.has_its_place(ref.task_id, ref.attempt):
                continue
            newest = await newest_attempt(tx, ref.task_id)
            if newest is not None and _is_fenced(newest, ref.attempt, event.worker_id):
                events.append(_stop_fenced(event, ref))
        return events

    async def on_decided(self, event: Decided, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Read again what an operator decided: one who stands by may have been asked, and wrote it."""
        self.note(_KEPT_IN[type(event)].name, event.subject)
        return []

    async def on_probe(self, event: SchedulerProbed, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Note that our own path through Kafka works."""
        self.leases.probe_seen(event.scheduler, event.seq)
        return []

    async def _judge_worker(self, attempt: AttemptDocument, tx: Transaction, clock: Clock) -> list[Event]:
        """Count a run that failed for its worker's own fault; leave a worker out where that happens again."""
        if attempt.failure is None or attempt.failure.failure_class is not FailureClass.NODE_BAD:
            return []
        known = await find_worker(tx, attempt.worker_id)
        if known is None:
            return []
        now, settings = clock.now(), self.settings
        recent = [at for at in known.bad if (now - at).total_seconds() < settings.bad_within]
        known = replace(known, bad=(*recent, now))
        self.note(WORKERS.name, attempt.worker_id)
        if len(known.bad) < settings.bad_runs or known.cordon is not None:
            await save_worker(tx, known)
            return []
        left_out = timedelta(seconds=settings.bad_for * 2 ** min(known.cordoned, 8))
        reason = f"{len(known.bad)} runs failed there for its own fault, the last one: {attempt.failure.message}"
        found = Cordon(reason[:300], "scheduler", now + left_out)
        known = replace(known, cordoned=known.cordoned + 1)
        _, events = await cordon(known, found, tx=tx, clock=clock)
        return list(events)

    def _pass_on(self, entry: Entry) -> tuple[Entry, list[Event]]:
        """Tell the worker how the task wants its attempt to stop: once, and again when that has changed; and
        changed parameters until its run has answered, a repeat is harmless.
        """
        news: list[Event] = _update(entry)
        wish = stop_wish(entry.task)
        if wish is None and (entry.gives_way_to is not None or entry.asked is StopKind.PREEMPT):
            return entry, news
        if wish is entry.asked or wish is None:
            return replace(entry, asked=wish), news
        stops = stop_commands(entry, wish, grace=self.settings.stop_grace, reason=entry.task.reason)
        return replace(entry, asked=wish), [*news, *stops]


def _renewed(known: WorkerEntry | None, worker: WorkerDocument, clock: Clock) -> WorkerEntry:
    """Return a worker as it says it stands; what was decided about it here stays."""
    gone_at = clock.now() if worker.stopped else None
    known = known or WorkerEntry(worker, state_of(worker))
    return replace(known, worker=worker, state=state_of(worker), gone_at=gone_at)


def state_of(worker: WorkerDocument) -> str:
    """Return how a worker stands that says this of itself."""
    return STOPPED if worker.stopped else DRAINING if worker.draining else ALIVE


def _arrived(entry: Entry, worker: WorkerDocument, is_adopted: bool, clock: Clock) -> tuple[Entry, list[Event]]:
    """Return a run's entry after its worker has spoken."""
    member = next((one for one in watched(entry) if one.worker_id == worker.worker_id), None)
    if member is None or (member.incarnation == worker.incarnation and (is_adopted or not worker.stopped)):
        return entry, []
    if is_adopted:
        entry = reincarnated(entry, member, worker.incarnation, clock.now())
        return entry, [PlacementAssigned(placement=entry.placement)]
    anew = member.incarnation != worker.incarnation
    return lose(entry, member, "its worker started anew without it" if anew else "its worker stopped", clock.now())


def _stop_fenced(heartbeat: WorkerHeartbeat, ref: AttemptRef) -> StopAttempt:
    return StopAttempt(
        worker_id=heartbeat.worker_id,
        incarnation=heartbeat.incarnation,
        task_id=ref.task_id,
        attempt=ref.attempt,
        revision=GIVEN_UP,
        kind=StopKind.PREEMPT,
        grace_seconds=0,
        reason="this attempt was given up; another one took its place",
    )


def _update(entry: Entry) -> list[Event]:
    """Return the command that hands a run the changed parameters that none has answered yet."""
    placement, task = entry.placement, entry.task
    changes = [one for one in task.parameter_changes if one.state is ChangeState.REQUESTED]
    if not changes or placement.worker_id is None or placement.incarnation is None:
        return []
    command = UpdateParameters(
        worker_id=placement.worker_id,
        incarnation=placement.incarnation,
        task_id=placement.task_id,
        attempt=placement.attempt,
        revision=task.parameter_revision,
        changes=changes,
    )
    return [command]


def _new_entry(task: TaskDocument, clock: Clock) -> Entry:
    now = clock.now()
    return Entry(task, Placement(task_id=task.task_id, version=0, state=RELEASED, updated_at=now))


def _queue(entry: Entry, clock: Clock) -> Entry:
    now = clock.now()
    entry = entry.moved(
        now, state=QUEUED, worker_id=None, incarnation=None, members=[], rendezvous=None, reason="queued"
    )
    entry = replace(entry, gives_way_to=None, reservation=None, guest_of=None, endings=())
    return replace(entry, assigned_at=None, told="", queued_at=now)


def _holds(entry: Entry, attempt: int) -> bool:
    return entry.placement.state is ASSIGNED and entry.placement.attempt == attempt


def _is_fenced(newest: Newest, attempt: int, worker_id: str) -> bool:
    """Return whether a run that a worker lists was given up.

    A heartbeat may be older than the end that we know of: to stop what is over does nothing.
    """
    gave_up = not newest.has_its_place or worker_id in newest.lost_on
    return attempt < newest.attempt or (attempt == newest.attempt and gave_up)
