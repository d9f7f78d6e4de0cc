"""A task's place and who is in it: what is sent to whom, and when an attempt on several workers is over.

A place is free for others when all of its members are over. Nothing is stored or emitted here.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from datetime import datetime
from zlib import crc32

from services.scheduler.domain.gangs import Ending, breaks_up, conclusion, is_through, lost
from services.scheduler.domain.plans import Seat
from services.scheduler.domain.pool import Host
from services.scheduler.domain.tasks import time_left
from services.scheduler.store import Entry
from trainwright.contracts.base import Event
from trainwright.contracts.command import ConcludeAttempt, RunAttempt, StopAttempt
from trainwright.contracts.queue import (
    Member,
    Placement,
    PlacementReleased,
    PlacementState,
    Rendezvous,
    WorkerLost,
)
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import StopKind
from trainwright.contracts.worker import WorkerDocument

Answer = tuple[Entry, list[Event]]
LOOPBACK = "127.0.0.1"
PORTS = (29400, 29499)
BREAK_UP = 2**39
"""Revision of the stop of members whose attempt cannot go on: above every wish, below what was given up."""
BREAK_UP_GRACE = 3.0
"""Seconds in which they may end by themselves: they are stuck without the others, mostly."""


def members_of(placement: Placement) -> list[Member]:
    """Return who has a place, by rank; of most tasks that is one worker."""
    if placement.members or placement.worker_id is None or placement.incarnation is None:
        return placement.members
    worker_id, incarnation = placement.worker_id, placement.incarnation
    return [Member(rank=0, worker_id=worker_id, incarnation=incarnation, slots=placement.slots)]


def running(entry: Entry) -> list[Member]:
    """Return the members whose end is not known."""
    ended = {one.rank for one in entry.endings}
    return [member for member in members_of(entry.placement) if member.rank not in ended]


def watched(entry: Entry) -> list[Member]:
    """Return the members whose workers must show that they are there; the board reads the same of a document."""
    ended = {one.rank for one in entry.endings if is_through(one.rank, one.outcome)}
    return [member for member in members_of(entry.placement) if member.rank not in ended]


def seated(entry: Entry, seat: Seat, attempt: int, now: datetime, *, hosts: Callable[[str], Host]) -> Entry:
    """Return a task's entry with the place that a pass has found."""
    members = [
        Member(
            rank=rank,
            worker_id=worker_id,
            incarnation=hosts(worker_id).incarnation,
            slots=Slots(gpus=list(part.gpus), cpu=part.cpu, memory=part.memory),
        )
        for rank, (worker_id, part) in enumerate(seat.parts)
    ]
    first = members[0]
    entry = entry.moved(
        now,
        state=PlacementState.ASSIGNED,
        attempt=attempt,
        worker_id=first.worker_id,
        incarnation=first.incarnation,
        slots=first.slots,
        members=members if len(members) > 1 else [],
        rendezvous=None,
        reason=seat.reason,
        waits_for=None,
    )
    entry = replace(entry, assigned_at=now, saved_at=None, told="", asked=None, lost_on=None, endings=())
    return replace(entry, reservation=seat.reservation, guest_of=seat.guest_of)


def meeting_at(entry: Entry, workers: Iterable[WorkerDocument], taken: Collection[tuple[str, int]]) -> Entry:
    """Return the entry of a gang with the place where its members meet: a port that no other gang there has."""
    workers, task_id, attempt = list(workers), entry.task.task_id, entry.placement.attempt
    first = workers[0]
    together = all(one.hostname == first.hostname for one in workers)
    low, high = first.ports if len(first.ports) == 2 else PORTS
    size, start = high - low + 1, crc32(task_id.encode()) + attempt
    ports = [low + (start + number) % size for number in range(size)]
    port = next((port for port in ports if (first.hostname, port) not in taken), ports[0])
    host = first.address or (LOOPBACK if together else first.hostname)
    place = Rendezvous(id=f"{task_id}.{attempt}", host=host, port=port)
    return replace(entry, placement=entry.placement.model_copy(update={"rendezvous": place}))


def run_commands(entry: Entry) -> list[Event]:
    """Return what starts an attempt on each of its workers."""
    task, placement = entry.task, entry.placement
    return [
        RunAttempt(
            worker_id=member.worker_id,
            incarnation=member.incarnation,
            task_id=task.task_id,
            attempt=placement.attempt,
            name=task.name,
            config=task.config,
            slots=member.slots,
            overrides=task.overrides,
            parameter_changes=task.parameter_changes,
            repairs=task.repairs,
            resume_from=task.checkpoints,
            timeout_seconds=time_left(task),
            rank=member.rank,
            members=placement.members,
            rendezvous=placement.rendezvous,
        )
        for member in members_of(placement)
    ]


def stop_commands(
    entry: Entry, kind: StopKind, *, grace: float, reason: str, revision: int | None = None
) -> list[Event]:
    """Return what stops an attempt, on each worker where it still runs."""
    return [
        StopAttempt(
            worker_id=member.worker_id,
            incarnation=member.incarnation,
            task_id=entry.task.task_id,
            attempt=entry.placement.attempt,
            revision=entry.task.version if revision is None else revision,
            kind=kind,
            grace_seconds=grace,
            reason=reason,
        )
        for member in running(entry)
    ]


def reincarnated(entry: Entry, member: Member, incarnation: str, now: datetime) -> Entry:
    """Return the entry of a run that another life of its worker goes on with."""
    news = {"incarnation": incarnation} if member.rank == 0 else {}
    known = entry.placement.members
    members = [one.model_copy(update={"incarnation": incarnation}) if one == member else one for one in known]
    return replace(entry.moved(now, reason="", members=members, **news), told="")


def lose(entry: Entry, member: Member, why: str, now: datetime) -> Answer:
    """Give a member up; the only one takes its attempt along at once: its slots are free, and it is fenced."""
    if not entry.placement.members:
        return _given_up(entry, member.worker_id, why, now)
    return ended(entry, lost(member.rank, member.worker_id, why), now)


def ended(entry: Entry, ending: Ending, now: datetime) -> Answer:
    """Note a member's end: have the others stopped if it leaves them alone, and conclude after the last."""
    known = {one.rank: one for one in entry.endings}.get(ending.rank)
    if known is not None and not (ending.reported or ending.outcome is None):
        return entry, []
    was_over = breaks_up(entry.endings)
    entry = replace(entry, endings=(*(one for one in entry.endings if one is not known), ending))
    if ending.outcome is None:
        entry = _marked_lost(entry, ending.rank, now)
    if running(entry):
        return entry, [] if was_over else broken_up(entry)
    first = next(one for one in entry.endings if one.rank == 0)
    if first.outcome is None:
        said = first.failure.message if first.failure is not None else ""
        return _given_up(entry, first.worker_id, said, now)
    if first.reported:
        return released(entry, f"attempt {entry.placement.attempt} ended", now)
    return entry, broken_up(entry)


def broken_up(entry: Entry) -> list[Event]:
    """Return what is said to the members of a gang that ends: to those that run, or to rank 0 how it ended."""
    if not breaks_up(entry.endings):
        return []
    if running(entry):
        why = "; ".join(f"member {one.rank} {one.outcome or 'was lost'}" for one in entry.endings)
        reason = f"the attempt ends: {why}"
        return stop_commands(entry, StopKind.PREEMPT, grace=BREAK_UP_GRACE, reason=reason, revision=BREAK_UP)
    outcome, failure = conclusion(entry.endings)
    first = members_of(entry.placement)[0]
    return [
        ConcludeAttempt(
            worker_id=first.worker_id,
            incarnation=first.incarnation,
            task_id=entry.task.task_id,
            attempt=entry.placement.attempt,
            outcome=outcome,
            failure=failure,
        )
    ]


def released(entry: Entry, why: str, now: datetime) -> Answer:
    """Take a task's place away."""
    gone = next((one.worker_id for one in entry.endings if one.outcome is None), entry.lost_on)
    entry = entry.moved(now, state=PlacementState.RELEASED, reason=why, waits_for=None)
    return replace(entry, lost_on=gone), [PlacementReleased(placement=entry.placement)]


def _marked_lost(entry: Entry, rank: int, now: datetime) -> Entry:
    """Return the entry of a gang that says when a member was given up."""
    known = entry.placement.members
    members = [one.model_copy(update={"lost_at": now}) if one.rank == rank else one for one in known]
    return replace(entry, placement=entry.placement.model_copy(update={"members": members}))


def _given_up(entry: Entry, worker_id: str, why: str, now: datetime) -> Answer:
    entry = entry.moved(now, state=PlacementState.RELEASED, reason=why, waits_for=None)
    return replace(entry, lost_on=worker_id), [WorkerLost(placement=entry.placement)]
