"""What a pass knows: workers, runs, the queue, strategies, and the promises that were made before."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from services.scheduler.domain.pool import EPSILON, Host, Needs, Pool, Room, free_room
from services.scheduler.domain.queue import NO_TENANT, Queue, Waiting
from services.scheduler.domain.shares import Shares, Use, largest_gpu, use_of

UNKNOWN = math.inf
"""The end of a run that is never assumed to end."""
MOST_SUMS = 2_000
RESTART = 40.0
"""Seconds of its GPUs that a run costs which saves and starts again: 10 to save, 30 until it trains."""
LATE = 1.1
"""A checkpoint is expected until so many times the pause before it have passed since the last one."""
LIMIT, PAST_RUNS = "its limit", "past runs"
"""What the end of a run is known by."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How placing weighs what it cannot know. All times in seconds."""

    protected: float = 60.0
    """A run that gave its place up is left alone for so long after its next start, then for 3, 7, 15 times it."""
    patience: float = 30.0
    """Nobody gives a place up for one that would have it so soon anyhow."""
    grace: float = 30.0
    """Time in which a run that gives its place up saves a checkpoint."""
    forbearance: float = 600.0
    """An urgent task waits no longer than this for others to save, or to end, before they lose work for it."""
    overdue: float = 3600.0
    """After waiting so long a task may get the turn of those who waited longest."""
    turn: int = 8
    """One place in so many goes to who has waited longest, whatever its priority."""


@dataclass(frozen=True, slots=True)
class Run:
    """A task that has its place. Moments are seconds of the epoch by our own clock."""

    task_id: str
    attempt: int
    needs: Needs
    parts: tuple[tuple[str, Room], ...]
    """What it has on which worker, one by member."""
    use: Use = field(default_factory=Use)
    priority: int = 0
    strategy: str = NO_TENANT
    since: float = 0.0
    saved_at: float = 0.0
    """When we heard of its last checkpoint; 0 without one."""
    saves_every: float = UNKNOWN
    """Seconds from a checkpoint to the next, as we heard of the last two; UNKNOWN before that."""
    ends: float = UNKNOWN
    basis: str = "unknown"
    """What its end is known by: its limit, or past runs."""
    preemptible: bool = True
    gave_way: int = 0
    """How often it gave its place up."""
    spares: frozenset[str] = frozenset()
    gives_way_to: str | None = None
    """The task that its place is being cleared for."""
    stopping: bool = False
    """Whether it was asked to stop, by whomever."""
    reservation: str | None = None
    guest_of: str | None = None
    """The task that its place is kept for: it gives it up, whatever its priority, once that one can start."""
    heeds_stop: bool = False
    """Whether it has shown that it looks if it should stop, and saves: then what it did is kept."""

    @property
    def may_yield(self) -> bool:
        """Return whether it may be asked to give its place up."""
        return self.preemptible and not self.stopping and self.gives_way_to is None

    def lost_work(self, now: float) -> float:
        """Return the GPU-seconds that are lost if it stops now; CPU-seconds count a hundredth.

        That is what it did since its last checkpoint, unless it saves when it is asked, and its next start.
        """
        ran = max(0.0, now - self.since)
        return weight_of(self.needs) * min(ran, RESTART if self.heeds_stop else RESTART + self.unsaved(now))

    def least_lost(self, now: float) -> float:
        """Return what would be lost if it had just saved."""
        return min(self.lost_work(now), weight_of(self.needs) * RESTART)

    def saves_by(self, now: float) -> float:
        """Return until when its next checkpoint is expected; UNKNOWN if none is."""
        late = max(self.since, self.saved_at) + LATE * self.saves_every
        return late if late > now and not self.heeds_stop else UNKNOWN

    def unsaved(self, now: float) -> float:
        """Return the seconds since its last checkpoint, or since it started."""
        return max(0.0, now - max(self.since, self.saved_at))


def weight_of(needs: Needs) -> float:
    """Return how many GPUs a task counts for; a CPU core counts a hundredth."""
    return needs.members * (needs.gpu + 0.01 * needs.cpu)


@dataclass(frozen=True, slots=True)
class Reservation:
    """A part of a worker that is kept for a strategy's tasks, or for one task, until a moment."""

    reservation_id: str
    worker_id: str
    part: Room
    until: float
    strategy: str | None = None
    task_id: str | None = None

    def is_for(self, waiting: Waiting) -> bool:
        """Return whether a task may use it."""
        if self.task_id is not None:
            return waiting.task_id == self.task_id
        return self.strategy is not None and waiting.strategy == self.strategy


@dataclass(frozen=True, slots=True)
class Clearing:
    """Runs that are to give their places up, for whom, on which workers, and the work that is lost by it."""

    task_id: str
    victims: tuple[str, ...]
    workers: tuple[str, ...]
    lost: float
    at: float = 0.0
    """Until when it is put off, if it is: by then less is lost."""
    after: str | None = None
    """The run that it is put off for: it saves by then, or ends."""
    seen: float = 0.0
    """When that was found last."""


@dataclass(frozen=True, slots=True)
class Hold:
    """Places that are kept for the first task which does not fit: where, and from when it will."""

    task_id: str
    workers: tuple[str, ...]
    starts: float
    basis: str
    spare: tuple[Room, ...] = ()
    """What of each worker it does not need when it starts: others may have that for as long as they like."""

    def less(self, worker_id: str, part: Room) -> "Hold":
        """Return it after somebody else got a part of what it does not need."""
        index = self.workers.index(worker_id)
        spare = self.spare[index]
        left = Room(spare.gpus[len(part.gpus) :], spare.cpu - part.cpu, spare.memory - part.memory)
        return replace(self, spare=(*self.spare[:index], left, *self.spare[index + 1 :]))


@dataclass(slots=True)
class State:
    """All of it. ``plan`` reads it and changes nothing."""

    pool: Pool = field(default_factory=Pool)
    queue: Queue = field(default_factory=Queue)
    shares: Shares = field(default_factory=Shares)
    runs: dict[str, Run] = field(default_factory=dict)
    runs_on: dict[str, dict[str, Room]] = field(default_factory=dict)
    """What runs have on each worker, by task; members of one task together."""
    reservations: dict[str, Reservation] = field(default_factory=dict)
    yielding: Counter[int] = field(default_factory=Counter)
    """How many runs of each priority may be asked to give their places up."""
    ends_on: dict[str, list[tuple[float, str, Room]]] = field(default_factory=dict)
    """Ends of the runs on a worker in order, where they were asked for."""
    claims: dict[str, set[str]] = field(default_factory=dict)
    """Runs that give their places up, by the task that they do it for."""
    guests: dict[str, set[str]] = field(default_factory=dict)
    """Runs in places that are kept for another task, by that task."""
    cleared: dict[str, float] = field(default_factory=dict)
    """Tasks for which the last place was cleared, and when: it is theirs for a while, whatever their share."""
    policy: Policy = field(default_factory=Policy)
    turns: int = 0
    """Places that were given since one who had waited longest got one."""
    in_vain: Mapping[tuple[int, Needs], float] = field(default_factory=dict)
    """Priorities and needs that nothing could be cleared for lately, and when that was seen."""
    put_off: Mapping[str, Clearing] = field(default_factory=dict)
    """What is going to be cleared later, by the task that waits for it."""
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The workers that are cleared for a task, those that were free before too, by task."""
    held: Hold | None = None
    """What was kept for whom at the end of the last pass."""

    def add_run(self, run: Run, now: float) -> None:
        """Note that a task has its place from now on."""
        run = replace(run, use=use_of(run.needs, largest_gpu(self.pool)))
        self.runs[run.task_id] = run
        for worker_id, part in run.parts:
            self.runs_on.setdefault(worker_id, {})[run.task_id] = part
            self.set_room(worker_id)
        self.shares.account(run.strategy).change(run.use, 1, now, self.pool)
        self.cleared.pop(run.task_id, None)
        if run.may_yield:
            self.yielding[run.priority] += 1
        if run.guest_of is not None:
            self.guests.setdefault(run.guest_of, set()).add(run.task_id)
        if run.gives_way_to is not None:
            self.claims.setdefault(run.gives_way_to, set()).add(run.task_id)
            self._claim(run.gives_way_to, now)

    def drop_run(self, task_id: str, now: float) -> Run | None:
        """Take a task's place away, if it has one, and return it."""
        run = self.runs.pop(task_id, None)
        if run is None:
            return None
        for worker_id, _ in run.parts:
            del self.runs_on[worker_id][task_id]
            self.set_room(worker_id)
        self.shares.account(run.strategy).change(run.use, -1, now, self.pool)
        if run.may_yield:
            self.yielding[run.priority] -= 1
            if not self.yielding[run.priority]:
                del self.yielding[run.priority]
        if run.guest_of is not None:
            self.guests[run.guest_of].discard(task_id)
            if not self.guests[run.guest_of]:
                del self.guests[run.guest_of]
        if run.gives_way_to is not None:
            self.claims[run.gives_way_to].discard(task_id)
            if not self.claims[run.gives_way_to]:
                del self.claims[run.gives_way_to]
                self.cleared[run.gives_way_to] = now
            self._claim(run.gives_way_to, now)
        return run

    def set_room(self, worker_id: str) -> None:
        """Reckon what is free on a worker of the pool."""
        self.ends_on.pop(worker_id, None)
        host = self.pool.hosts.get(worker_id)
        if host is not None:
            parts = self.runs_on.get(worker_id, {})
            rank = max((self.runs[name].priority for name in parts), default=None)
            self.pool.set(host, free_room(host, parts.values()), rank)

    def put(self, waiting: Waiting, now: float) -> None:
        """Let a task wait, or note what is new of it."""
        claims = waiting.task_id in self.claims or waiting.task_id in self.cleared
        self.queue.put(replace(waiting, claims=claims) if claims != waiting.claims else waiting, now)

    def expire(self, now: float) -> None:
        """Forget what has had its time: reservations, and places that were cleared and not taken."""
        for id in [id for id, kept in self.reservations.items() if kept.until <= now]:
            del self.reservations[id]
        for task_id in [name for name, at in self.cleared.items() if at + self.policy.grace <= now]:
            del self.cleared[task_id]
            self._claim(task_id, now)

    def _claim(self, task_id: str, now: float) -> None:
        """Let a task for which places are being cleared stand before its equals, or not any more."""
        waiting = self.queue.waiting.get(task_id)
        if waiting is not None:
            self.put(waiting, now)

    def end_of(self, run: Run, now: float) -> tuple[float, str]:
        """Return when a run will have ended, known by what; one that outlasts the others is not assumed to end."""
        if run.gives_way_to is not None or run.stopping:
            return min(max(run.ends, now), now + self.policy.grace), "it is stopping"
        if run.ends > now:
            return run.ends, run.basis
        return (now + self.policy.grace, run.basis) if run.basis == LIMIT else (UNKNOWN, "unknown")

    def left_of(self, reservation: Reservation) -> Room:
        """Return what of a reservation no run uses."""
        left = reservation.part
        for run in self.runs.values() if self.reservations else ():
            if run.reservation == reservation.reservation_id:
                for worker_id, part in run.parts:
                    if worker_id == reservation.worker_id:
                        left = left.minus(part)
        return Room(left.gpus, max(0.0, left.cpu), max(0, left.memory))

    def reserved_on(self, worker_id: str) -> Iterator[Reservation]:
        """Yield the reservations on a worker."""
        for reservation in self.reservations.values():
            if reservation.worker_id == worker_id:
                yield reservation

    def releases(self, worker_id: str, now: float) -> list[tuple[float, str, Room]]:
        """Return what becomes free on a worker: when, known by what, which part; the soonest first."""
        found = self.ends_on.get(worker_id)
        if found is None or (found and found[0][0] <= now):
            runs = [(self.runs[name], part) for name, part in self.runs_on.get(worker_id, {}).items()]
            found = sorted((*self.end_of(run, now), part) for run, part in runs)
            self.ends_on[worker_id] = found
        if not self.reservations:
            return found
        kept = [(r.until, "the end of a reservation", self.left_of(r)) for r in self.reserved_on(worker_id)]
        return sorted([*found, *kept])


def earliest(
    needs: Needs, host: Host, free: Room, releases: Sequence[tuple[float, str, Room]], now: float
) -> tuple[float, str, Room]:
    """Return when a member fits on a worker, known by what, and what is free there then.

    If no end is known that would make room, what is free is what is free now.
    """
    at, basis, then = now, "", free
    for ends, why, released in releases:
        if host.pick(needs, then) is not None:
            break
        if ends == UNKNOWN:
            return UNKNOWN, "no end is known of what runs there", free
        at, basis, then = max(at, ends), why, then.plus(released)
    if host.pick(needs, then) is None:
        return UNKNOWN, "no end is known of what runs there", free
    return at, basis, then


def beside(needs: Needs, free: Room, parts: Sequence[Room]) -> Room:
    """Return what others may have for as long as they like without delaying a start, whatever ends first.

    Args:
        needs: Of the one that waits.
        free: What is free now.
        parts: What may become free, in any order.
    """
    gpus = int(_slack(needs.gpu, len(free.gpus), [len(part.gpus) for part in parts]))
    cpu = _slack(needs.cpu, free.cpu, [part.cpu for part in parts])
    memory = _slack(needs.memory, free.memory, [part.memory for part in parts])
    return Room(free.gpus[:gpus], cpu, int(memory))


def _slack(need: float, free: float, parts: Sequence[float]) -> float:
    """Return the least that can be left over at the first moment when there is enough."""
    sums = {free}
    if free >= need - EPSILON:
        return max(0.0, free - need)
    for part in parts:
        sums |= {round(one + part, 6) for one in sums if one < need - EPSILON}
        if len(sums) > MOST_SUMS:
            return 0.0
    return max(0.0, min((one - need for one in sums if one >= need - EPSILON), default=0.0))
