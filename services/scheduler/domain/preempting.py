"""Preemption: which runs give their places up for a task of a higher priority, so that the least work is lost.

Only runs of a strictly lower priority are asked, never one that the task gave its own place up for before, none
that has just started, and none that is stopping already. So no two take places from each other for ever.
"""

from collections.abc import Callable, Collection, Iterable

from services.scheduler.domain.plans import Clearing
from services.scheduler.domain.pool import Needs, View
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import Run, State

DAY = 86_400.0


def protected_until(run: Run, state: State) -> float:
    """Return until when a run is left alone."""
    return run.since + min(state.policy.protected * float(2**run.gave_way), DAY)


def may_take(waiting: Waiting, run: Run, state: State, now: float) -> bool:
    """Return whether a task may have the place of a run."""
    return (
        run.priority < waiting.priority
        and run.may_yield
        and run.task_id not in waiting.spares
        and protected_until(run, state) <= now
    )


Victims = list[tuple[float, Run]]
"""What each loses, and who it is; the least first."""
Able = dict[str, Victims]


def able(state: State, now: float) -> Able:
    """Return, by worker, the runs that could give way to somebody, and what would be lost; the least first."""
    found: Able = {}
    for run in state.runs.values():
        if run.may_yield and protected_until(run, state) <= now:
            lost = run.lost_work(now)
            for worker_id, _ in run.parts:
                found.setdefault(worker_id, []).append((lost, run))
    for runs in found.values():
        runs.sort(key=lambda pair: (pair[0], pair[1].task_id))
    return found


def clear(
    waiting: Waiting, hosts: Collection[str], state: State, view: View, found: Able, gone: Collection[str]
) -> Clearing | None:
    """Return whom to ask for a task's places, or None.

    ``found`` are the runs that could give way; ``gone`` are those that were asked in this pass already, and
    workers where places are kept for others.
    """

    def victims_on(worker_id: str, leaving: Collection[str]) -> Victims | None:
        those = [
            pair
            for pair in found.get(worker_id, ())
            if pair[1].priority < waiting.priority
            and pair[1].task_id not in waiting.spares
            and pair[1].task_id not in gone
        ]
        return fewest(waiting.needs, worker_id, state, view, those, leaving)

    # A gang may have to have places cleared beside others that are free.
    some = found.keys() & set(hosts) if waiting.needs.members == 1 else set(hosts)
    return cheapest(waiting, [name for name in some if name not in gone], victims_on, state)


def cheapest(
    waiting: Waiting,
    hosts: Iterable[str],
    victims_on: Callable[[str, Collection[str]], Victims | None],
    state: State,
) -> Clearing | None:
    """Return the workers where the least is lost, one for each member of a task; None if there are too few.

    Greedy: each next worker is the one where, beside all who leave already, the least more is lost.
    ``victims_on`` says who has to leave a worker beside those who leave anyhow, or None.
    """
    options = {name: found for name in hosts if (found := victims_on(name, ())) is not None}
    chosen, names = list[str](), dict[str, float]()
    while len(chosen) < waiting.needs.members:
        if not options:
            return None
        _, worker_id = min((sum(lost for lost, _ in found), name) for name, found in options.items())
        victims = options.pop(worker_id)
        chosen.append(worker_id)
        names |= {run.task_id: lost for lost, run in victims}
        for other in {name for _, run in victims for name, _ in run.parts} & options.keys():
            options[other] = victims_on(other, names) or []
    return Clearing(waiting.task_id, tuple(names), tuple(chosen), sum(names.values())) if names else None


def fewest(
    needs: Needs, worker_id: str, state: State, view: View, runs: Victims, leaving: Collection[str]
) -> Victims | None:
    """Return the runs on a worker whose places are enough for one more, or None.

    ``runs`` are those that may be taken and what each loses, the least first; ``leaving`` leave anyhow.
    """
    host, free, parts = state.pool.hosts[worker_id], view.room(worker_id), state.runs_on.get(worker_id, {})
    for name in leaving:
        free = free.plus(parts[name]) if name in parts else free
    taken, room, count = Victims(), free, len(free.gpus)
    if count >= needs.gpu and host.pick(needs, free) is not None:
        return taken
    for pair in runs:
        if pair[1].task_id in leaving:
            continue
        taken.append(pair)
        count += len(parts[pair[1].task_id].gpus)
        if count < needs.gpu:  # cheap, and nearly always what is short
            continue
        room = free
        for _, one in taken:
            room = room.plus(parts[one.task_id])
        if host.pick(needs, room) is not None:
            break
    else:
        return None
    for pair in reversed(taken[:-1]):
        less = room.minus(parts[pair[1].task_id])
        if host.pick(needs, less) is not None:
            taken.remove(pair)
            room = less
    return taken
