"""The head: where the first task that does not fit can start, and when; places there are kept for it.

Not here: that others may have what it does not need, or give back in time (``planning.py``).
"""

from collections.abc import Callable, Iterable

from services.scheduler.domain.guests import Releases, without_guests
from services.scheduler.domain.pool import Room, View
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import UNKNOWN, Hold, State, beside, earliest


def first_start(
    waiting: Waiting,
    hosts: Iterable[str],
    state: State,
    view: View,
    releases_on: Callable[[str], Releases],
    now: float,
) -> Hold | None:
    """Return where a task can start first, and when; of equals the workers that were kept for it before."""
    kept, needs = state.held, waiting.needs
    before = kept.workers if kept is not None and kept.task_id == waiting.task_id else ()
    guests = waiting.task_id in state.guests
    found: list[tuple[float, bool, tuple[float, float], str, str, Room]] = []
    best: list[float] = []
    for worker_id in hosts:
        releases = releases_on(worker_id)
        free, host = view.room(worker_id), state.pool.hosts[worker_id]
        if guests:
            free, releases = without_guests(waiting.task_id, worker_id, free, releases, state, now)
        first = releases[0][0] if releases else UNKNOWN
        if len(best) >= needs.members and len(free.gpus) < needs.gpu and first > best[-1]:
            continue  # not sooner than those that were found
        starts, basis, then = earliest(needs, host, free, releases, now)
        short = needs.gpu - len(free.gpus), needs.cpu - free.cpu
        found.append((starts, worker_id not in before, short, worker_id, basis, then))
        best = sorted([*best, starts])[: needs.members]
    found.sort(key=lambda item: item[:4])
    chosen = found[: needs.members]
    if len(chosen) < needs.members:
        return None
    spares = []
    for at, _, _, worker_id, _, then in chosen:
        parts = [part for _, _, part in releases_on(worker_id)] if at == UNKNOWN else []
        spares.append(beside(needs, then, parts))
    starts, _, _, _, basis, _ = chosen[-1]
    return Hold(waiting.task_id, tuple(item[3] for item in chosen), starts, basis, tuple(spares))
