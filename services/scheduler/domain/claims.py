"""Claims: workers where a task starts once those have gone who were asked to give their places up for it.

They leave one by one, as they have saved. What the first of them left, and what was free before, has to be there
when the last has gone: else somebody else takes it, and all of them have left in vain.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from services.scheduler.domain.pool import View
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import Clearing, Hold, State, beside


def claimants(state: State) -> Iterator[Waiting]:
    """Yield the tasks for which places are being cleared, or were a moment ago."""
    for task_id in {**state.claims, **state.cleared}:
        if task_id in state.queue.waiting:
            yield state.queue.waiting[task_id]


def claimed(task_id: str, state: State) -> list[str]:
    """Return the workers that are kept for a claimant; after a start of ours those that somebody leaves for it."""
    leaving = state.claims.get(task_id, ())
    workers = {worker_id for victim in leaving for worker_id, _ in state.runs[victim].parts}
    return sorted(state.pool.hosts.keys() & set(state.kept.get(task_id, workers)))


def cleared(
    waiting: Waiting, workers: tuple[str, ...], leaving: Collection[str], state: State, view: View, now: float
) -> Hold:
    """Return the hold of workers of which some runs leave: what is over once they have gone is spare."""
    spare = []
    for worker_id in workers:
        free = view.room(worker_id)
        for task_id, part in state.runs_on.get(worker_id, {}).items():
            free = free.plus(part) if task_id in leaving else free
        spare.append(beside(waiting.needs, free, ()))
    return Hold(waiting.task_id, workers, now + state.policy.grace, "others give their places up", tuple(spare))


def closed_to(waiting: Waiting, holds: Mapping[str, Hold], state: State) -> set[str]:
    """Return workers that are kept for others, and where a task has nothing cleared.

    What its turn keeps for a task of a lower priority is open: it may start in hours, and closed it would have
    those of a higher priority take the places of runs elsewhere that lose far more.
    """
    found = set[str]()
    for worker_id, hold in holds.items():
        owner = state.queue.waiting.get(hold.task_id)
        is_open = owner is not None and owner.priority < waiting.priority and not owner.claims
        if hold.task_id != waiting.task_id and not is_open:
            found.add(worker_id)
    return found


def kept(state: State, seated: Collection[str], clearings: Sequence[Clearing]) -> dict[str, tuple[str, ...]]:
    """Return which workers are kept after a pass, by the task that they are kept for."""
    waits = {one.task_id for one in claimants(state)}.difference(seated)
    before = {name: workers for name, workers in state.kept.items() if name in waits}
    return before | {one.task_id: one.workers for one in clearings}
