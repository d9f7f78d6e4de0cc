"""The provisioner's decision, and a small world in which it is asked again and again."""

from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from services.provisioner.deciding import decide
from services.provisioner.domain import (
    IDLE,
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

SMALL = Kind("small", Size(cpu=2, memory=4), most=3)
LARGE = Kind("large", Size(gpu=2, cpu=8, memory=32), most=2)
POLICY = Policy(kinds=(SMALL, LARGE), most=4, cool_down=10, start_within=20, settle=1, retry_first=5, steady=15)


def wishing(count: int = 1, *, waited: float = 0.0, cpu: float = 2, gpu: int = 0) -> Wish:
    return Wish(Size(gpu=gpu, cpu=cpu, memory=1), count, waited, "waiting for a free place")


def worker(name: str, *, busy: bool = False, state: str = "alive", reason: str = "") -> Worker:
    free = Size() if busy else SMALL.size
    return Worker(f"worker-of-{name}", name, state, SMALL.size, free, busy, reason)


def running(name: str, kind: str = "small") -> Machine:
    return Machine(name, kind, MachineState.RUNNING)


def test_the_smallest_class_that_fits_is_started_and_no_more_than_wait() -> None:
    found = decide(World((wishing(2), wishing(1, gpu=1))), Memory(), POLICY, 0)
    assert found.actions == (Start("small-1", "small"), Start("small-2", "small"), Start("large-1", "large"))


def test_what_is_coming_is_waited_for() -> None:
    machines = (Machine("small-1", "small", MachineState.STARTING),)
    assert decide(World((wishing(1, waited=15),), (), machines), Memory(), POLICY, 0).actions == ()


def test_what_fits_no_class_is_said_and_starts_nothing() -> None:
    found = decide(World((wishing(3, cpu=64),)), Memory(), POLICY, 0)
    assert found.actions == ()
    assert found.notes[0].startswith("3 tasks wait with 64 CPU, 9.31e-10 GiB: fits no class (small: 2 CPU")


def test_what_an_idle_worker_does_not_help_another_one_does_not_either() -> None:
    world = World((wishing(waited=30),), (worker("small-1"),), (running("small-1"),))
    memory = Memory(came={"worker-of-small-1": 0.0}, idle={"worker-of-small-1": 29.0})
    found = decide(world, memory, POLICY, 30)
    assert found.actions == ()
    assert "worker-of-small-1 is idle and no help: waiting for a free place" in found.notes[0]


def test_a_quota_that_is_a_share_of_all_cores_gets_one_machine_more_beside_an_idle_one() -> None:
    world = World((replace(wishing(5, waited=30), by_quota=True),), (worker("small-1"),), (running("small-1"),))
    memory = Memory(came={"worker-of-small-1": 0.0}, idle={"worker-of-small-1": 0.0})
    first = decide(world, memory, POLICY, 30)
    assert first.actions == (Start("small-2", "small"),), "one, and the idle one stays: its cores count"
    coming = Machine("small-2", "small", MachineState.STARTING)
    assert decide(replace(world, machines=(*world.machines, coming)), first.memory, POLICY, 31).actions == ()
    full = decide(world, memory, replace(POLICY, kinds=(replace(SMALL, most=1),)), 30)
    assert full.notes == ("1 task waits with 2 CPU, 9.31e-10 GiB: class small is at its most of 1",)
    assert full.actions == (Drain("worker-of-small-1"),), "nothing can be had that would help"


def test_a_worker_is_drained_first_and_ended_only_when_still_idle() -> None:
    machines, memory = (running("small-1"),), Memory(came={"worker-of-small-1": 0}, idle={"worker-of-small-1": 0})
    first = decide(World((), (worker("small-1"),), machines), memory, POLICY, 10)
    assert first.actions == (Drain("worker-of-small-1"),)
    busy = worker("small-1", busy=True, state="draining", reason=IDLE)
    assert decide(World((), (busy,), machines), first.memory, POLICY, 11).actions == (), "a task was faster"
    idle = replace(busy, busy=False, free=SMALL.size)
    (stop,) = decide(World((), (idle,), machines), first.memory, POLICY, 12).actions
    assert isinstance(stop, Stop)
    again = decide(World((wishing(waited=5),), (idle,), machines), first.memory, POLICY, 12)
    assert again.actions == (Undrain("worker-of-small-1"),), "it is needed again before it was ended"


def test_a_worker_drained_by_somebody_else_is_left_alone() -> None:
    other = worker("small-1", state="draining", reason="maintenance")
    assert decide(World((), (other,), (running("small-1"),)), Memory(), POLICY, 99).actions == ()


def test_a_machine_that_never_becomes_a_worker_is_replaced_later_and_later() -> None:
    starting = Machine("small-1", "small", MachineState.STARTING, "no node has room")
    memory, now, policy = Memory(), 0.0, replace(POLICY, kinds=(SMALL,))
    waits = []
    for _ in range(3):
        memory = decide(World((wishing(),), (), (starting,)), memory, policy, now).memory
        found = decide(World((wishing(),), (), (starting,)), memory, policy, now + 20)
        assert [type(action) for action in found.actions] == [Stop]
        assert found.notes[0] == "small-1 is given up: no worker came for 20 s: no node has room"
        waits.append(found.memory.not_before["small"] - (now + 20))
        gone = decide(World((wishing(),)), found.memory, policy, now + 21)
        assert gone.actions == ()
        assert "small failed" in gone.notes[0]
        memory, now = gone.memory, now + 20 + waits[-1]
        assert decide(World((wishing(),)), memory, policy, now).actions == (Start("small-1", "small"),)
    assert waits == [5, 10, 20]


def test_a_machine_whose_node_is_lost_takes_no_place_but_its_name() -> None:
    policy = replace(POLICY, kinds=(replace(SMALL, most=1),))
    ending, lost = (Machine("small-1", "small", state) for state in (MachineState.ENDING, MachineState.LOST))
    assert decide(World((wishing(),), (), (ending,)), Memory(), policy, 0).actions == (), "it may still run"
    assert decide(World((wishing(),), (), (lost,)), Memory(), policy, 0).actions == (Start("small-2", "small"),)


def test_the_least_is_kept_and_made() -> None:
    policy = replace(POLICY, kinds=(replace(SMALL, least=1),))
    assert decide(World(), Memory(), policy, 0).actions == (Start("small-1", "small"),)
    memory = Memory(came={"worker-of-small-1": 0}, idle={"worker-of-small-1": 0})
    assert decide(World((), (worker("small-1"),), (running("small-1"),)), memory, policy, 99).actions == ()


@dataclass
class Site:
    """Machines that come up, tasks that are placed first-fit and end, and the decision between them."""

    policy: Policy = POLICY
    now: float = 0.0
    memory: Memory = field(default_factory=Memory)
    machines: dict[str, tuple[str, float]] = field(default_factory=dict)
    runs: dict[str, list[tuple[Size, float]]] = field(default_factory=dict)
    drained: set[str] = field(default_factory=set)
    queue: list[tuple[Size, float, float]] = field(default_factory=list)
    starts: int = 0

    def step(self, forget: bool = False) -> None:
        """Let a second pass."""
        self.now += 1
        self.runs = {n: [run for run in runs if run[1] > self.now] for n, runs in self.runs.items()}
        for name, (_, up) in self.machines.items():
            if up <= self.now:
                self.runs.setdefault(name, [])
        self.queue = [one for one in self.queue if not self._place(*one)]
        self.memory = Memory() if forget else self.memory
        found = decide(self._seen(), self.memory, self.policy, self.now)
        self.memory = found.memory
        for action in found.actions:
            self._do(action)
        for kind in self.policy.kinds:
            assert sum(one == kind.name for one, _ in self.machines.values()) <= kind.most
        assert len(self.machines) <= self.policy.most

    def _size(self, name: str) -> Size:
        return next(kind.size for kind in self.policy.kinds if kind.name == self.machines[name][0])

    def _free(self, name: str) -> Size:
        left = self._size(name)
        for size, _ in self.runs[name]:
            left = left.minus(size, 1)
        return left

    def _place(self, size: Size, _since: float, seconds: float) -> bool:
        for name in sorted(self.runs.keys() - self.drained):
            if self._free(name).holds(size):
                self.runs[name].append((size, self.now + seconds))
                return True
        return False

    def _seen(self) -> World:
        machines = [
            Machine(n, kind, MachineState.RUNNING if n in self.runs else MachineState.STARTING)
            for n, (kind, _) in self.machines.items()
        ]
        workers = []
        for name, runs in self.runs.items():
            state, reason = ("draining", IDLE) if name in self.drained else ("alive", "")
            workers.append(
                Worker(f"of-{name}", name, state, self._size(name), self._free(name), bool(runs), reason)
            )
        wishes = tuple(Wish(size, 1, self.now - since) for size, since, _ in self.queue)
        return World(wishes, tuple(workers), tuple(machines))

    def _do(self, action: object) -> None:
        match action:
            case Start(name, kind):
                assert name not in self.machines
                self.machines[name] = (kind, self.now + 3)
                self.starts += 1
            case Stop(name, _):
                assert self.runs[name] == [], "a busy worker was ended"
                assert name in self.drained
                del self.machines[name], self.runs[name]
                self.drained.discard(name)
            case Drain(worker_id):
                self.drained.add(worker_id.removeprefix("of-"))
            case Undrain(worker_id):
                self.drained.discard(worker_id.removeprefix("of-"))


TASKS = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from([Size(cpu=1, memory=1), Size(cpu=2, memory=4), Size(gpu=1, cpu=1), Size(gpu=2, cpu=8)]),
        st.integers(1, 15),
    ),
    max_size=25,
)


@settings(max_examples=60)
@given(TASKS, st.sets(st.integers(0, 60), max_size=5))
def test_never_too_many_never_a_busy_one_and_all_that_fits_is_run_and_given_back(
    tasks: list[tuple[int, Size, int]], kills: set[int]
) -> None:
    site = Site()
    for second in range(600):
        site.queue += [(size, site.now, float(seconds)) for at, size, seconds in tasks if at == second]
        site.step(forget=second in kills)
        if second > 60 and not site.queue and not site.machines:
            break
    assert site.queue == [], "everything that fits a class was run"
    assert site.machines == {}, "nothing is left"


@settings(max_examples=30)
@given(st.integers(1, 6))
def test_an_even_load_is_served_without_flapping(seconds: int) -> None:
    site = Site()
    for second in range(200):
        if second % 10 == 0:  # idle for less than the cool-down between any two
            site.queue.append((Size(cpu=2, memory=4), site.now, float(seconds)))
        site.step()
    assert site.starts == 1
