"""Which runs of a strategy go when its quota was lowered below what they have. Pure.

Not here: places that are needed for others (``preempting.py``); without being asked to reclaim, runs keep theirs.
"""

from services.scheduler.domain.shares import Quota, Use, over_quota
from services.scheduler.domain.state import Run, State


def over_the_quota(strategy: str, quota: Quota, state: State, now: float) -> list[Run]:
    """Return the runs that have to go until a strategy is within a quota, as far as they may be asked.

    Those of the lowest priority go first, of equals those that lose the least work; one without which the strategy
    is no nearer to its quota stays.
    """
    cpus = state.pool.total()[1]
    runs = [run for run in state.runs.values() if run.strategy == strategy]
    used = Use()
    for run in runs:
        used = used if _goes_already(run) else used.plus(run.use)
    going = []
    for run in sorted(runs, key=lambda run: (run.priority, run.lost_work(now), run.task_id)):
        if run.may_yield and _eases(run, used, quota, cpus):
            going.append(run)
            used = used.plus(run.use, -1)
    for run in reversed(going[:-1]):  # a small one may have been taken before a large one that is enough
        if over_quota(quota, used, run.use, cpus) is None:
            going.remove(run)
            used = used.plus(run.use)
    return going


def _goes_already(run: Run) -> bool:
    return run.stopping or run.gives_way_to is not None


def _eases(run: Run, used: Use, quota: Quota, cpus: float) -> bool:
    """Return whether a limit is exceeded that a run counts for."""
    return any(
        over_quota(quota, Use(), Use(**{name: getattr(used, name)}), cpus) is not None
        for name in ("cpu", "gpu_memory", "members")
        if getattr(run.use, name)
    )
