"""A cluster in simulated time around the scheduler's own pass: jobs arrive, run, save, give way, end.

The pass is the real one; only the workers, the clock and the store are played. What has to hold at any moment is
asserted after every pass. Used by properties (``tests/unit``) and by the trace bench (``tests/bench``).
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from services.scheduler.domain.planning import plan
from services.scheduler.domain.plans import Plan
from services.scheduler.domain.pool import Host, Needs, Room, free_room
from services.scheduler.domain.preempting import patience_of
from services.scheduler.domain.queue import Waiting, hosts_for, shape_of
from services.scheduler.domain.shares import Quota
from services.scheduler.domain.state import LIMIT, UNKNOWN, Policy, Run, State
from trainwright.contracts.queue import WaitClass


@dataclass(frozen=True)
class Job:
    """A task of the simulation. ``work`` is what it takes without an interruption, in seconds."""

    name: str
    needs: Needs
    work: float
    arrives: float = 0.0
    priority: int = 0
    strategy: str = ""
    limit: float | None = None
    every: float = math.inf
    """Between its periodic checkpoints."""
    saves_on_stop: bool = True
    """Whether it asks if it should stop, and saves then; else it is killed when its grace is over."""
    preemptible: bool = True
    fails: bool = False
    """Whether it fails at its end: then none of its work was useful."""

    @property
    def gpus(self) -> int:
        """Return the GPUs of all its members."""
        return self.needs.gpu * self.needs.members


@dataclass(frozen=True, slots=True)
class PlayedRun(Run):
    """A run of the simulation."""

    youngest: bool = False
    """Lets those go first that have run for the shortest time, whatever they lose."""

    def lost_work(self, now: float) -> float:
        return max(0.0, now - self.since) if self.youngest else Run.lost_work(self, now)


@dataclass
class Told:
    """What happened to a job."""

    started: list[float] = field(default_factory=list)
    ended: float | None = None
    done: float = 0.0
    """Seconds of its work that are saved."""
    lost: float = 0.0
    """GPU-seconds that it had and that came to nothing, because it gave its place up."""
    gave_way_to: list[str] = field(default_factory=list)
    saves_every: float = UNKNOWN
    """Seconds between its last two checkpoints."""


Planner = Callable[[State, float], Plan]
SAVING = 10.0
"""Seconds that a checkpoint on request takes."""
SWEEP = 10.0
"""Seconds after which a pass looks again while something is put off; the real one follows every second."""


class Simulation:
    """A cluster, its jobs, and what happens to them."""

    def __init__(
        self,
        hosts: Iterable[Host],
        jobs: Iterable[Job],
        *,
        quotas: Mapping[str, Quota] | None = None,
        policy: Policy | None = None,
        planner: Planner = plan,
        youngest: bool = False,
        starting: float = 0.0,
        checked: bool = True,
    ) -> None:
        self.state = State(policy=policy or Policy())
        self.hosts = {host.worker_id: host for host in hosts}
        for host in self.hosts.values():
            self.state.pool.set(host, host.all)
        self.state.shares.quotas.update(quotas or {})
        self.jobs = {job.name: job for job in jobs}
        self.told = {name: Told() for name in self.jobs}
        self.planner, self.youngest, self.checked = planner, youngest, checked
        self.starting = starting
        """Seconds from each start until a run trains, the first one too."""
        self.asked: dict[str, float] = {}
        """When those that give their places up were asked."""
        self.promised: dict[str, float] = {}
        """The start that was promised to a task when it was first in the order, latest."""
        self.busy_gpus: list[tuple[float, int]] = [(0.0, 0)]
        self.passes = 0
        self._swept = -1.0
        self._events: list[tuple[float, int, str, str]] = []
        self._number = 0
        self._last, self._in_a_row = -1.0, 0
        for job in self.jobs.values():
            self._at(job.arrives, "arrives", job.name)

    def run(self, until: float = UNKNOWN) -> "Simulation":
        """Play until a moment, or until nothing happens any more."""
        while self._events and self._events[0][0] <= until:
            now = self._events[0][0]
            while self._events and self._events[0][0] == now:
                _, _, kind, name = heappop(self._events)
                getattr(self, f"_{kind}")(name, now)
            self._pass(now)
        return self

    def useful(self, until: float) -> float:
        """Return the GPU-seconds of steps, each counted once, of jobs that do not fail, running ones included."""
        return sum(self._done(name, until) * job.gpus for name, job in self.jobs.items() if not job.fails)

    def _done(self, name: str, until: float) -> float:
        run, done = self.state.runs.get(name), self.told[name].done
        under_way = 0.0 if run is None else max(0.0, until - run.since - self.starting)
        return min(self.jobs[name].work, done + under_way)

    def _at(self, moment: float, kind: str, name: str) -> None:
        self._number += 1
        heappush(self._events, (moment, self._number, kind, name))

    def _arrives(self, name: str, now: float) -> None:
        job, told = self.jobs[name], self.told[name]
        self.state.put(
            Waiting(
                name,
                job.needs,
                job.priority,
                job.arrives,
                job.strategy,
                limit=job.limit,
                queued_at=now,
                spares=frozenset(told.gave_way_to),
                preemptible=job.preemptible,
            ),
            now,
        )

    def _end_of(self, run: Run) -> float:
        return run.since + self.starting + self.jobs[run.task_id].work - self.told[run.task_id].done

    def _ends(self, key: str, now: float) -> None:
        name, _, attempt = key.rpartition("#")
        run = self.state.runs.get(name)
        if run is None or run.attempt != int(attempt):
            return
        self.state.drop_run(name, now)
        self.told[name].done, self.told[name].ended = self.jobs[name].work, now

    def _stopped(self, key: str, now: float) -> None:
        """A run has given its place up: with a checkpoint, or without."""
        name, _, attempt = key.rpartition("#")
        run, job, told = self.state.runs.get(name), self.jobs[name], self.told[name]
        if run is None or run.attempt != int(attempt):
            return
        until = self.asked[name] if job.saves_on_stop else now
        kept = max(0.0, until - run.since - self.starting)
        kept = min(kept if job.saves_on_stop else kept - math.fmod(kept, job.every), job.work - told.done)
        told.done += kept
        told.lost += (now - run.since - kept) * job.gpus
        self.state.drop_run(name, now)
        self._arrives(name, now)

    def _saves(self, key: str, now: float) -> None:
        """A run that does not save when it is asked has saved; what it costs to lose it is another one now."""
        name, _, attempt = key.rpartition("#")
        run, told = self.state.runs.get(name), self.told[name]
        if run is None or run.attempt != int(attempt) or run.gives_way_to is not None:
            return
        told.saves_every = now - max(run.since, run.saved_at)
        self.state.drop_run(name, now)
        self.state.add_run(replace(run, saved_at=now, saves_every=told.saves_every), now)
        self._at(now + self.jobs[name].every, "saves", key)

    def _wakes(self, name: str, now: float) -> None:
        """Nothing but a pass."""

    def _pass(self, now: float) -> None:
        state = self.state
        state.expire(now)
        state.queue.wake(now)
        found = self.planner(state, now)
        self.passes += 1
        self._in_a_row = self._in_a_row + 1 if now == self._last else 0
        self._last = now
        assert self._in_a_row < len(self.jobs) + 100, "passes follow each other for ever, and nothing changes"
        if self.checked:
            check_plan(state, found, self.jobs, now)
        for seat in found.seats:
            self._start(seat.task_id, seat.parts, now, seat.guest_of)
        for clearing in found.clearings:
            for victim in clearing.victims:
                self._ask(victim, clearing.task_id, now)
        state.held, state.in_vain, state.kept = found.held, found.in_vain, found.kept
        state.put_off = found.put_off
        if found.held is not None and found.held.starts < UNKNOWN:
            self.promised.setdefault(found.held.task_id, found.held.starts)
        turns = [seat.by_turn for seat in found.seats]
        state.turns = state.turns + len(turns) if True not in turns else len(turns) - 1 - turns.index(True)
        state.queue.explain(found.reasons)
        self.busy_gpus.append((now, sum(run.use.gpu for run in state.runs.values())))
        if self.checked:
            check_state(state, self.hosts)
        if found.more:
            self._at(now, "wakes", "")
        elif found.put_off and self._swept <= now:
            self._swept = min(now + SWEEP, *(put.at for put in found.put_off.values() if put.at > now))
            self._at(self._swept, "wakes", "")

    def _start(self, name: str, parts: Sequence[tuple[str, Room]], now: float, guest_of: str | None) -> None:
        job, told = self.jobs[name], self.told[name]
        assert name in self.state.queue.waiting, "placed twice"
        self.state.queue.drop(name)
        told.started.append(now)
        attempt = len(told.started)
        ends = UNKNOWN if job.limit is None else now + job.limit
        run = PlayedRun(
            name,
            attempt,
            job.needs,
            tuple(parts),
            priority=job.priority,
            strategy=job.strategy,
            since=now,
            ends=ends,
            basis=LIMIT if job.limit is not None else "unknown",
            preemptible=job.preemptible,
            gave_way=len(told.gave_way_to),
            spares=frozenset(told.gave_way_to),
            guest_of=guest_of,
            heeds_stop=job.saves_on_stop,
            saves_every=told.saves_every,
            youngest=self.youngest,
        )
        self.state.add_run(run, now)
        if not job.saves_on_stop and job.every < UNKNOWN:
            self._at(now + self.starting + job.every, "saves", f"{name}#{attempt}")
        self._at(self._end_of(run), "ends", f"{name}#{attempt}")

    def _ask(self, victim: str, claimer: str, now: float) -> None:
        run, told = self.state.runs[victim], self.told[victim]
        assert victim not in self.told[claimer].gave_way_to, "two take places from each other"
        lower = run.priority < self.jobs[claimer].priority
        assert lower or run.guest_of == claimer, "only a lower priority gives way, or a guest to its host"
        told.gave_way_to.append(claimer)
        self.asked[victim] = now
        self.state.drop_run(victim, now)
        self.state.add_run(replace(run, gives_way_to=claimer, gave_way=run.gave_way + 1), now)
        wait = SAVING if self.jobs[victim].saves_on_stop else self.state.policy.grace
        self._at(now + min(wait, self.state.policy.grace), "stopped", f"{victim}#{run.attempt}")


def check_state(state: State, hosts: Mapping[str, Host]) -> None:
    """Assert that nothing is given twice, that what is free is free, and that quotas are kept."""
    taken: dict[str, list[Room]] = {name: [] for name in hosts}
    for run in state.runs.values():
        assert run.task_id not in state.queue.waiting, "it runs and waits"
        assert len(run.parts) == run.needs.members == len({name for name, _ in run.parts}), (
            "a gang has all or none"
        )
        for name, part in run.parts:
            taken[name].append(part)
            assert (len(part.gpus), part.cpu, part.memory) == run.needs[:3]
    for name, parts in taken.items():
        gpus = [index for part in parts for index in part.gpus]
        free = free_room(hosts[name], parts)
        assert len(gpus) == len(set(gpus)), "a GPU is given twice"
        assert free.cpu >= -1e-6, "more cores are given than there are"
        assert free.memory >= 0, "more memory is given than there is"
        assert sorted(free.gpus) == sorted(state.pool.room[name].gpus)
    for strategy, quota in state.shares.quotas.items():
        used = state.shares.account(strategy).now
        assert used.members <= quota.max_workers, "more runs than the quota allows"
        assert used.cpu <= quota.cpu_percent / 100 * state.pool.total()[1] + 1e-6, (
            "more cores than the quota allows"
        )
        assert used.gpu_memory <= quota.gpu_memory_mb * 2**20, "more GPU memory than the quota allows"


def check_plan(state: State, found: Plan, jobs: Mapping[str, Job], now: float) -> None:
    """Assert that nobody who fits waits, and that nobody waits for one of a lower priority that was let in."""
    given = {seat.task_id for seat in found.seats}
    for name, put in found.put_off.items():
        waiting = state.queue.waiting[name]
        assert now < put.at <= patience_of(waiting, state, now).until, "nobody waits longer for others' work"
    if found.more:
        return
    left = dict(state.pool.room)
    for seat in found.seats:
        for name, part in seat.parts:
            left[name] = left[name].minus(part)
    claimed = {name for run in state.runs.values() if run.gives_way_to for name, _ in run.parts}
    kept = {*(found.held.workers if found.held else ()), *claimed}
    kept |= {name for workers in found.kept.values() for name in workers}
    for waiting in state.queue.waiting.values():
        shape = shape_of(waiting)
        reason = found.reasons.get(shape) or state.queue.groups[shape].reason
        if waiting.task_id in given or reason is None or reason.wait is not WaitClass.SLOTS:
            continue
        own = found.held is not None and found.held.task_id == waiting.task_id
        hosts = [name for name in hosts_for(shape, state.pool)[0] if own or name not in kept]
        fits = [name for name in hosts if state.pool.hosts[name].pick(waiting.needs, left[name])]
        assert len(fits) < waiting.needs.members, f"{waiting.task_id} fits and waits"
        for seat in found.seats:
            lower = jobs[seat.task_id].priority < waiting.priority and not seat.by_turn
            if lower and waiting.needs.members == 1:
                for name, part in seat.parts:
                    room = left[name].plus(part)
                    inverted = name in hosts and state.pool.hosts[name].pick(waiting.needs, room)
                    assert not inverted, f"{waiting.task_id} waits for {seat.task_id}, of a lower priority"


def first_come_first_served(state: State, now: float) -> Plan:
    """Return the plan of a queue that nobody leaves before his turn: no priorities, no quotas, no backfill."""
    first = min(state.queue.waiting.values(), key=lambda one: (one.age, one.task_id), default=None)
    if first is None:
        return Plan([], {})
    alone = State(state.pool)
    alone.put(replace(first, strategy="", priority=0), now)
    seats = plan(alone, now, limit=1).seats
    return Plan(seats, {}, more=bool(seats))
