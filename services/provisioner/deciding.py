"""The decision: one pure function from what there is and what waits to what is started and ended.

Level-triggered: it looks at what is, not at what happened, so it may be killed and asked again at any moment. A
worker is ended in two steps: drained while idle, and stopped once the scheduler, which then places nothing there
any more, still shows it idle. Whoever waits longer than ``settle`` cannot use what is free, or the scheduler would
have given it to them: they get a new machine, unless one that is idle as a whole does not help them either.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from services.provisioner.domain import (
    Action,
    Decision,
    Drain,
    Kind,
    Machine,
    MachineState,
    Memory,
    Policy,
    Size,
    Start,
    Stop,
    Undrain,
    Wish,
    Worker,
    World,
)


def decide(world: World, memory: Memory, policy: Policy, now: float) -> Decision:
    """Return what to do about what waits and what is idle."""
    pairs = _pairs(world)
    memory = _remember(world, pairs, memory, policy, now)
    return _Decision(world, pairs, memory, policy, now).made()


def _pairs(world: World) -> dict[str, Worker]:
    """Return the worker of each machine: of several that had the name, one that is there."""
    there = [worker for worker in world.workers if worker.state in ("alive", "draining")]
    found = {worker.machine: worker for worker in sorted(there, key=lambda one: one.works)}
    return {machine.name: found[machine.name] for machine in world.machines if machine.name in found}


def _remember(world: World, pairs: dict[str, Worker], memory: Memory, policy: Policy, now: float) -> Memory:
    """Return the memory of this moment; what is gone is forgotten."""
    machines = {machine.name: machine for machine in world.machines}
    live = {n: m for n, m in machines.items() if m.state in (MachineState.STARTING, MachineState.RUNNING)}
    workers = {worker.worker_id: worker for worker in pairs.values()}
    came = {name: memory.came.get(name, now) for name in workers}
    lived = {name: memory.lived[name] for name in machines if name in memory.lived}
    lived |= {name: now - came[worker.worker_id] for name, worker in pairs.items()}
    steady = {machines[name].kind for name, seconds in lived.items() if seconds >= policy.steady}
    largest = {machines[name].kind: worker.total for name, worker in pairs.items()}
    return Memory(
        came=came,
        idle={n: memory.idle.get(n, now) for n, w in workers.items() if w.works and not w.busy},
        alone={name: memory.alone.get(name, now) for name in live if name not in pairs},
        lived=lived,
        counted=memory.counted & machines.keys(),
        failures={kind: n for kind, n in memory.failures.items() if kind not in steady},
        not_before={kind: at for kind, at in memory.not_before.items() if at > now},
        sizes={**memory.sizes, **largest},
    )


@dataclass(slots=True)
class _Bin:
    """Room on a machine, and what it takes to use it."""

    room: Size
    worker: Worker | None = None
    is_new: bool = False


class _Decision:
    def __init__(self, world: World, pairs: dict[str, Worker], memory: Memory, policy: Policy, now: float) -> None:
        self.world, self.pairs, self.memory, self.policy, self.now = world, pairs, memory, policy, now
        self.kinds = {kind.name: kind for kind in policy.kinds}
        self.actions: list[Action] = []
        self.notes: list[str] = []
        self.stopped: set[str] = set()
        self.used: set[str] = set()
        """Workers that something was put on, or that are wanted anyway."""
        self.names = {machine.name for machine in world.machines}
        self.count = Counter(one.kind for one in world.machines if one.state is not MachineState.LOST)

    def made(self) -> Decision:
        self._give_up_hopeless()
        bins = self._bins()
        for wish in self.world.wishes:
            self._serve(wish, bins)
        self._keep_least()
        self._end_idle()
        order = (Undrain, Start, Drain, Stop)
        actions = sorted(self.actions, key=lambda one: order.index(type(one)))
        return Decision(tuple(actions), self.memory, tuple(dict.fromkeys(self.notes)))

    def _size(self, kind: Kind) -> Size:
        return self.memory.sizes.get(kind.name, kind.size)

    def _is_coming(self, machine: Machine) -> bool:
        return machine.name in self.memory.alone and machine.name not in self.stopped

    # --- machines that are over, or never became workers

    def _give_up_hopeless(self) -> None:
        for machine in self.world.machines:
            alone = self.now - self.memory.alone.get(machine.name, self.now)
            lived = self.memory.lived.get(machine.name)
            if machine.state is MachineState.OVER:
                self._stop(machine, f"it has ended{_because(machine.reason)}")
                if lived is None or lived < self.policy.steady:
                    self._count_failure(machine)
            elif alone >= self.policy.start_within:
                word = "no worker came" if lived is None else "its worker was lost"
                self._stop(machine, f"{word} for {alone:.0f} s{_because(machine.reason)}")
                self._count_failure(machine)

    def _count_failure(self, machine: Machine) -> None:
        memory, kind = self.memory, machine.kind
        if machine.name in memory.counted:
            return
        failures = memory.failures.get(kind, 0) + 1
        wait = min(self.policy.retry_first * 2 ** min(failures - 1, 30), self.policy.retry_most)
        self.memory = replace(
            memory,
            counted=memory.counted | {machine.name},
            failures={**memory.failures, kind: failures},
            not_before={**memory.not_before, kind: self.now + wait},
        )

    def _stop(self, machine: Machine, why: str) -> None:
        self.stopped.add(machine.name)
        self.actions.append(Stop(machine.name, why))
        if why != IDLE_WORDS:
            self.notes.append(f"{machine.name} is given up: {why}")

    # --- what waits

    def _bins(self) -> list[_Bin]:
        """Return room that there is or will be, the cheapest to use first."""
        there = [_Bin(worker.free, worker) for worker in self.pairs.values() if worker.works]
        machines = [machine for machine in self.world.machines if self._is_coming(machine)]
        coming = [_Bin(self._size(self.kinds[m.kind])) for m in machines if m.kind in self.kinds]
        drained = [_Bin(worker.free, worker) for name, worker in self._drained() if name not in self.stopped]
        return [*there, *coming, *drained]

    def _drained(self) -> list[tuple[str, Worker]]:
        """Return workers that the provisioner drained and that are not leaving yet."""
        leaving = {machine.name for machine in self.world.machines if machine.name not in self._live()}
        return [(name, worker) for name, worker in self.pairs.items() if worker.is_drained and name not in leaving]

    def _live(self) -> set[str]:
        live = (MachineState.STARTING, MachineState.RUNNING)
        return {machine.name for machine in self.world.machines if machine.state in live}

    def _serve(self, wish: Wish, bins: list[_Bin]) -> None:
        left = self._put(wish, 1 if wish.by_quota else wish.count, bins)
        if not left:
            self._keep_all(wish)
            return
        fitting = [kind for kind in self._by_size() if self._size(kind).holds(wish.size)]
        if not fitting:
            self.notes.append(f"{_tasks(left)} with {wish.size}: fits no class ({self._offers()})")
            return
        if not wish.by_quota and (idle := self._idle_for(wish)) is not None:
            self.notes.append(
                f"{_tasks(left)} with {wish.size}: {idle.worker_id} is idle and no help: {wish.reason}"
            )
            return
        while left:
            kind = next((kind for kind in fitting if self._may_start(kind)), None)
            if kind is None:
                why = "; ".join(self._why_not(kind) for kind in fitting)
                self.notes.append(f"{_tasks(left)} with {wish.size}: {why}")
                return
            bins.append(_Bin(self._start(kind), is_new=True))
            left = self._put(wish, left, bins[-1:])
        self._keep_all(wish)

    def _keep_all(self, wish: Wish) -> None:
        """Keep every worker while one more is on its way to make a quota larger: it is a share of them all."""
        for worker in self.pairs.values() if wish.by_quota else ():
            if worker.works:
                self._use(worker)

    def _put(self, wish: Wish, left: int, bins: Iterable[_Bin]) -> int:
        """Put as many as fit on what there is; return how many are left."""
        for one in bins:
            if not left:
                break
            worker = one.worker
            if worker is not None and worker.works and not self._may_use(wish, worker):
                continue
            times = min(left, one.room.holds(wish.size))
            if times:
                one.room, left = one.room.minus(wish.size, times), left - times
                self._use(worker)
        return left

    def _may_use(self, wish: Wish, worker: Worker) -> bool:
        """Return whether the scheduler may just not have come to it yet."""
        settle = self.policy.settle
        return wish.waited < settle or self.now - self.memory.came[worker.worker_id] < settle

    def _use(self, worker: Worker | None) -> None:
        if worker is None or worker.worker_id in self.used:
            return
        self.used.add(worker.worker_id)
        if worker.is_drained:
            self.actions.append(Undrain(worker.worker_id))

    def _idle_for(self, wish: Wish) -> Worker | None:
        """Return a worker that has nothing to do and is large enough, and that the scheduler does not use."""
        for worker in self.pairs.values():
            if (
                worker.works
                and not worker.busy
                and worker.total.holds(wish.size)
                and not self._may_use(wish, worker)
            ):
                return worker
        return None

    def _by_size(self) -> list[Kind]:
        return sorted(self.kinds.values(), key=lambda kind: (*self._size(kind), kind.name))

    def _offers(self) -> str:
        return "; ".join(f"{kind.name}: {self._size(kind)}" for kind in self._by_size()) or "there is none"

    def _may_start(self, kind: Kind) -> bool:
        return self.count[kind.name] < kind.most and self._has_room() and kind.name not in self.memory.not_before

    def _has_room(self) -> bool:
        return self.count.total() < self.policy.most

    def _why_not(self, kind: Kind) -> str:
        if self.count[kind.name] >= kind.most:
            return f"class {kind.name} is at its most of {kind.most}"
        if not self._has_room():
            return f"all classes together are at their most of {self.policy.most}"
        seconds = self.memory.not_before[kind.name] - self.now
        failures = self.memory.failures.get(kind.name, 0)
        return f"class {kind.name} failed {failures} times in a row and is tried again in {seconds:.0f} s"

    def _start(self, kind: Kind) -> Size:
        number = next(n for n in range(1, len(self.names) + 2) if f"{kind.name}-{n}" not in self.names)
        name = f"{kind.name}-{number}"
        self.names.add(name)
        self.count[kind.name] += 1
        self.actions.append(Start(name, kind.name))
        return self._size(kind)

    # --- what is idle

    def _keep_least(self) -> None:
        for kind in self.policy.kinds:
            there = self._working(kind.name)
            there += sum(isinstance(action, Start) and action.kind == kind.name for action in self.actions)
            for _, worker in self._drained_of(kind.name):
                if there < kind.least:
                    self._use(worker)
                    there += 1
            while there < kind.least and self._may_start(kind):
                self._start(kind)
                there += 1

    def _working(self, kind: str) -> int:
        """Return how many machines of a kind have a worker that takes attempts, or will have one."""
        return sum(
            self._is_coming(machine) or (worker is not None and (worker.works or worker.worker_id in self.used))
            for machine in self.world.machines
            if machine.kind == kind and machine.name not in self.stopped
            for worker in [self.pairs.get(machine.name)]
        )

    def _drained_of(self, kind: str) -> list[tuple[str, Worker]]:
        of = {machine.name: machine.kind for machine in self.world.machines}
        return [(n, w) for n, w in self._drained() if of[n] == kind and w.worker_id not in self.used]

    def _end_idle(self) -> None:
        working = {kind: self._working(kind) for kind in {machine.kind for machine in self.world.machines}}
        for machine in self.world.machines:
            worker = self.pairs.get(machine.name)
            if worker is None or worker.busy or worker.worker_id in self.used or machine.name in self.stopped:
                continue
            if worker.is_drained:
                if machine.state not in (MachineState.ENDING, MachineState.LOST):
                    self._stop(machine, IDLE_WORDS)
                continue
            kind = self.kinds.get(machine.kind)
            idle = self.now - self.memory.idle.get(worker.worker_id, self.now)
            least = 0 if kind is None else kind.least
            if worker.works and idle >= self.policy.cool_down and working[machine.kind] > least:
                working[machine.kind] -= 1
                self.actions.append(Drain(worker.worker_id))


IDLE_WORDS = "nothing waits for it"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _tasks(count: int) -> str:
    return "1 task waits" if count == 1 else f"{count} tasks wait"
