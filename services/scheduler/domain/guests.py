"""Guests: tasks in places kept for a head whose start is far, or not known; they leave once it can start.

Places that are drained for a large task would stand empty until the last run in its way has ended: for hours by
its limit, for a day perhaps if nobody knows its end. Whoever may be asked to give its place up may have one of
them meanwhile. The head waits for guests no longer than their grace: once nothing else is in its way they are
asked to save and go.
"""

from collections.abc import Collection, Iterable

from services.scheduler.domain.pool import Room, View
from services.scheduler.domain.preempting import Victims, cheapest, fewest
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import Clearing, Hold, State

Releases = list[tuple[float, str, Room]]
FAR = 3600.0
"""Seconds before a known start from which on its places are not lent any more: few guests would end by then."""


def may_lend(hold: Hold, waiting: Waiting, state: State, now: float) -> bool:
    """Return whether a task may have a place that is kept for another one until that one can start."""
    owner = state.queue.waiting.get(hold.task_id)
    return (
        hold.starts > now + FAR
        and waiting.preemptible
        and owner is not None
        and waiting.task_id not in owner.spares
    )


def without_guests(
    task_id: str, worker_id: str, free: Room, releases: Releases, state: State, now: float
) -> tuple[Room, Releases]:
    """Return what is free on a worker, and what becomes free, as if a task's guests had gone."""
    parts = state.runs_on.get(worker_id, {})
    for name in state.guests[task_id] & parts.keys():
        free = free.plus(parts[name])
        theirs = (*state.end_of(state.runs[name], now), parts[name])
        releases = [one for one in releases if one != theirs]
    return free, releases


def clear_guests(
    waiting: Waiting, hosts: Iterable[str], state: State, view: View, now: float, gone: Collection[str]
) -> Clearing | None:
    """Return which guests of a task have to go so that it can start, those with the least to lose, or None."""
    guests = [state.runs[name] for name in state.guests[waiting.task_id]]
    leaving = [(run.lost_work(now), run) for run in guests if run.may_yield]
    leaving.sort(key=lambda pair: (pair[0], pair[1].task_id))

    def victims_on(worker_id: str, others: Collection[str]) -> Victims | None:
        here = [pair for pair in leaving if pair[1].task_id in state.runs_on.get(worker_id, {})]
        return fewest(waiting.needs, worker_id, state, view, here, others)

    return cheapest(waiting, [name for name in hosts if name not in gone], victims_on, state)
