"""What tests of placing share: a state from workers, waiting tasks and runs in a few words."""

from collections.abc import Iterable, Mapping, Sequence

from services.scheduler.domain.planning import plan
from services.scheduler.domain.plans import Plan
from services.scheduler.domain.pool import Host, Needs, Room
from services.scheduler.domain.queue import Waiting, shape_of
from services.scheduler.domain.shares import Quota
from services.scheduler.domain.state import Policy, Reservation, Run, State

NOW = 1_000_000.0


def a_host(name: str = "worker-1", *, cpus: float = 4, memory: int = 100, gpus: int = 0, each: int = 10) -> Host:
    """Return a worker."""
    return Host(name, "one", cpus, memory, dict.fromkeys(range(gpus), each))


def a_run(name: str, parts: Sequence[tuple[str, Room]], **fields: object) -> Run:
    """Return a run that has these parts."""
    part = parts[0][1]
    needs = Needs(len(part.gpus), part.cpu, part.memory, members=len(parts))
    return Run(name, 1, needs, tuple(parts), **fields)  # type: ignore[arg-type]


def a_state(
    hosts: Iterable[Host],
    queue: Iterable[Waiting] = (),
    runs: Iterable[Run] = (),
    *,
    quotas: Mapping[str, Quota] | None = None,
    reservations: Iterable[Reservation] = (),
    policy: Policy | None = None,
    now: float = NOW,
) -> State:
    """Return what a pass would read."""
    state = State(policy=policy or Policy())
    for host in hosts:
        state.pool.set(host, host.all)
    for run in runs:
        state.add_run(run, now)
    state.shares.quotas.update(quotas or {})
    state.reservations = {one.reservation_id: one for one in reservations}
    for waiting in queue:
        state.put(waiting, now)
    return state


def places(found: Plan) -> dict[str, list[str]]:
    """Return who goes to which workers."""
    return {seat.task_id: [worker_id for worker_id, _ in seat.parts] for seat in found.seats}


def reasons(found: Plan, queue: Iterable[Waiting]) -> dict[str, str]:
    """Return why the others wait, in words, by task."""
    given = {seat.task_id for seat in found.seats}
    waiting = [one for one in queue if one.task_id not in given]
    return {one.task_id: found.reasons[shape_of(one)].words for one in waiting if shape_of(one) in found.reasons}


def placed(hosts: Iterable[Host], queue: Iterable[Waiting], runs: Iterable[Run] = ()) -> Plan:
    """Return the plan of one pass."""
    return plan(a_state(hosts, queue, runs), NOW)
