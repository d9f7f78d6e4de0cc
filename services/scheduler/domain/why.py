"""Why a task waits: its place in the order, what blocks it by name, what would unblock it, and since when it will.

Computed from the same state as a pass, when somebody asks.
"""

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate

from services.scheduler.domain.planning import plan
from services.scheduler.domain.pool import Room
from services.scheduler.domain.preempting import left_alone_until, may_take
from services.scheduler.domain.queue import (
    LATER,
    Group,
    Reason,
    Shape,
    Waiting,
    drained_for,
    hosts_for,
    never_fits,
    no_room,
    rank_of,
    shape_of,
    size_of,
)
from services.scheduler.domain.shares import Excess, Ledger, Use, over_quota, use_of
from services.scheduler.domain.state import LIMIT, PAST_RUNS, UNKNOWN, Hold, Run, State, earliest
from trainwright.contracts.queue import WaitClass
from trainwright.contracts.waiting import Blocker, Estimate, Why

SHOWN = 20
"""Blockers that are named."""
SET_QUOTA = "`trainwright resource set-quota`"
THERE = {LIMIT: "the limit of what runs there", PAST_RUNS: "past runs of what runs there"}
"""What an end is known by, said to who waits for it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question about one task."""

    state: State
    waiting: Waiting
    now: float
    ledger: Ledger
    names: Mapping[str, str] = field(default_factory=dict)

    @property
    def shape(self) -> Shape:
        return shape_of(self.waiting)


def why(state: State, waiting: Waiting, now: float, names: Mapping[str, str]) -> Why:
    """Return why a task waits; it need not be in the queue. ``names`` are tasks' names for people."""
    asked = _Asked(state, waiting, now, Ledger(state.shares, state.pool, now), names)
    reason, blockers, unblock, estimate = _reasons(asked)
    return Why(
        task_id=waiting.task_id,
        waits=True,
        waits_for=reason.wait,
        reason=reason.words,
        position=None if reason.wait is WaitClass.LATER else 1 + _ahead(asked),
        waiting=len(state.queue.waiting.keys() | {waiting.task_id}),
        priority=waiting.priority,
        strategy=waiting.strategy or None,
        blocked_by=blockers[:SHOWN],
        unblocked_by=unblock,
        estimate=estimate,
    )


def _ahead(asked: _Asked) -> int:
    """Return how many tasks go first by priority, fair share and age."""
    return sum(_ahead_in(asked, shape, group) for shape, group in asked.state.queue.groups.items())


def _ahead_in(asked: _Asked, shape: Shape, group: Group) -> int:
    me, share = asked.waiting, asked.ledger.share
    higher = bisect_left(group.members, (-me.priority, -UNKNOWN, ""))
    alike = bisect_left(group.members, (1 - me.priority, -UNKNOWN, "")) - higher
    older = bisect_left(group.members, rank_of(me)) - higher
    if shape.claims != me.claims:
        return higher + (alike if shape.claims else 0)
    if shape.strategy == me.strategy or share(shape.strategy) == share(me.strategy):
        return higher + older
    return higher + (alike if share(shape.strategy) < share(me.strategy) else 0)


Answer = tuple[Reason, list[Blocker], list[str], Estimate | None]


def _reasons(asked: _Asked) -> Answer:
    state, waiting, now = asked.state, asked.waiting, asked.now
    if waiting.not_before is not None and waiting.not_before > now:
        at = datetime.fromtimestamp(waiting.not_before, UTC)
        return LATER, [], ["its pause is over"], Estimate(starts_at=at, basis="its pause, not before")
    never = never_fits(asked.shape, state.pool)
    if never is not None:
        return never, [], _larger(asked, never), None
    excess = asked.ledger.excess(waiting.strategy, waiting.needs)
    return _by_slots(asked) if excess is None else _by_quota(asked, excess)


def _larger(asked: _Asked, reason: Reason) -> list[str]:
    needs, pool = asked.waiting.needs, asked.state.pool
    drained = [f"worker {name} is undrained" for name in drained_for(needs, pool)[:SHOWN]]
    if reason.wait is WaitClass.WORKER:
        return [*drained, "a worker connects"]
    missing = needs.members - len(pool.fitting(needs))
    size = size_of(needs._replace(members=1))
    more = f"{missing} more workers with {size} connect" if missing > 1 else f"a worker with {size} connects"
    return [*drained, more, "the task asks for less"]


def _by_quota(asked: _Asked, excess: Excess) -> Answer:
    name, reason = asked.waiting.strategy, excess.reason(asked.waiting.strategy)
    words = f"{excess.used:g} of {excess.limit:g} {excess.unit} in use, this one asks for {excess.asks:g}"
    quota, raised = Blocker(kind="quota", id=name, reason=words), f"the quota is raised: {SET_QUOTA}"
    if excess.alone:
        cores = asked.ledger.total[1] * excess.asks / excess.limit if excess.share and excess.limit else 0
        more = [f"workers connect, for {cores:.6g} CPU in all"] if cores else []
        unblock = [*more, raised, "the task asks for less"]
        return reason, [quota], unblock, None
    runs = [run for run in asked.state.runs.values() if run.strategy == name]
    blockers = [quota, *(_blocker(asked, run.task_id, f"counts for strategy {name}") for run in runs)]
    ends = sorted((asked.state.end_of(run, asked.now), run.task_id, run.use) for run in runs)
    left = accumulate((use for _, _, use in ends), lambda used, use: used.plus(use, -1), initial=_used(asked))
    enough = next((n for n, used in enumerate(left) if n and _is_free(asked, used)), len(ends))
    at, basis = ends[enough - 1][0]
    known = _estimate(at, f"{THERE.get(basis, basis)}; others of its strategy may go first, not before")
    return reason, blockers, [_ends_of(asked, runs), raised], known if at < UNKNOWN else None


def _used(asked: _Asked) -> Use:
    return asked.ledger.used(asked.waiting.strategy)


def _is_free(asked: _Asked, used: Use) -> bool:
    """Return whether a quota has room for the task beside what is in use."""
    quota = asked.state.shares.quotas[asked.waiting.strategy]
    wanted = use_of(asked.waiting.needs, asked.ledger.gpu_memory)
    return over_quota(quota, used, wanted, asked.ledger.total[1]) is None


def _ends_of(asked: _Asked, runs: Sequence[Run]) -> str:
    """Return which runs of a strategy have to end, in words."""
    used = _used(asked)
    enough = [run.task_id for run in runs if _is_free(asked, used.plus(run.use, -1))]
    if not enough:
        return f"enough of the {len(runs)} runs of strategy {asked.waiting.strategy} end"
    if len(enough) == len(runs) > 1:
        return f"one of the {len(runs)} runs of strategy {asked.waiting.strategy} ends"
    return f"{' or '.join(enough[:4])} ends"


def _by_slots(asked: _Asked) -> Answer:
    state, waiting, now = asked.state, asked.waiting, asked.now
    hosts, _ = hosts_for(asked.shape, state.pool)
    reason = no_room(asked.shape, state.pool, hosts)
    extra = () if waiting.task_id in state.queue.waiting else (waiting,)
    held = plan(state, now, extra=extra, limit=10_000).held
    found = []
    for worker_id in hosts:
        free = _free(state, worker_id, now)
        releases = state.releases(worker_id, now)
        at, basis, _ = earliest(waiting.needs, state.pool.hosts[worker_id], free, releases, now)
        found.append((at, waiting.needs.gpu - len(free.gpus), worker_id, basis))
    chosen, put_off = sorted(found)[: waiting.needs.members], _put_off(asked)
    if held is not None and held.task_id == waiting.task_id:
        chosen = [one for one in found if one[2] in held.workers]
        blockers, unblock = _of_workers(asked, [one[2] for one in chosen])
        unblock = [*put_off, *unblock]
        return (
            reason,
            blockers,
            unblock,
            _estimate(held.starts, THERE.get(held.basis, held.basis), certain=held.starts < UNKNOWN),
        )
    at, _, _, basis = chosen[-1]
    fits = at <= now
    blockers, unblock = ([], []) if fits and held is not None else _of_workers(asked, [one[2] for one in chosen])
    if held is not None:
        blockers, unblock = _behind(asked, held, blockers, unblock, fits=fits)
    return (
        reason,
        blockers,
        [*put_off, *unblock],
        _estimate(at, f"{THERE.get(basis, basis) or 'free places'}; those ahead of it go first, not before"),
    )


def _put_off(asked: _Asked) -> list[str]:
    """Return what a task waits for that could have others give their places up now, but would lose much work."""
    put = asked.state.put_off.get(asked.waiting.task_id)
    if put is None or put.at <= asked.now:
        return []
    within, last = f"within {put.at - asked.now:.0f} s", asked.state.runs.get(put.after or "")
    if last is None:
        return [f"{', '.join(put.victims)} gives way: without a checkpoint until then, {within} all the same"]
    then = "ends" if put.at == last.ends else "saves its next checkpoint and gives its place up"
    return [f"{last.task_id} {then}, expected {within}"]


def _behind(
    asked: _Asked, held: Hold, blockers: list[Blocker], unblock: list[str], *, fits: bool
) -> tuple[list[Blocker], list[str]]:
    """Add who is first in the order; a task that ``fits`` beside it now may also promise to be over in time."""
    where = ", ".join(held.workers[:4]) + (" …" if len(held.workers) > 4 else "")
    first = _blocker(asked, held.task_id, f"is first in the order; places on {where} are kept for it")
    limit = (
        "" if asked.waiting.limit is not None or not fits else " or the task has a `timeout` that ends before that"
    )
    return [first, *blockers], [*unblock, f"{held.task_id} starts{limit}"]


def _of_workers(asked: _Asked, workers: list[str]) -> tuple[list[Blocker], list[str]]:
    """Return who has what the task needs on these workers, and what would move them."""
    state, waiting, now = asked.state, asked.waiting, asked.now
    blockers: list[Blocker] = []
    unblock: list[str] = []
    for worker_id in workers:
        names = state.runs_on.get(worker_id, {})
        for task_id, part in names.items():
            run = state.runs[task_id]
            blockers.append(_blocker(asked, task_id, f"has {_size(part)} of {worker_id}{_stays(asked, task_id)}"))
            if may_take(waiting, run, state, now) and run.lost_work(now) > 0:
                unblock.append(f"{task_id} gives its place up")
        kept = [one for one in state.reserved_on(worker_id) if one.until > now and not one.is_for(waiting)]
        for one in kept:
            words = f"keeps {_size(one.part)} of {worker_id}"
            blockers.append(Blocker(kind="reservation", id=one.reservation_id, reason=words))
            unblock.append(f"reservation {one.reservation_id} ends")
        if names:
            some = ", ".join(list(names)[:4]) + (" …" if len(names) > 4 else "")
            unblock.append(f"enough of {some} on {worker_id} ends" if len(names) > 1 else f"{some} ends")
    return blockers, unblock


def _stays(asked: _Asked, task_id: str) -> str:
    """Return why a run of a lower priority keeps its place, if it does."""
    run, me = asked.state.runs[task_id], asked.waiting
    if run.priority >= me.priority:
        return ""
    if run.gives_way_to is not None:
        return f"; it gives its place up for {run.gives_way_to}"
    if not run.preemptible:
        return "; it has a lower priority but is not preemptible"
    if run.task_id in me.spares:
        return "; it has a lower priority now, but this task gave its place up for it before"
    left = left_alone_until(run, asked.state) - asked.now
    return f"; it has a lower priority but keeps its place for {left:.0f} s more" if left > 0 else ""


def _blocker(asked: _Asked, task_id: str, reason: str) -> Blocker:
    return Blocker(kind="task", id=task_id, name=asked.names.get(task_id, ""), reason=reason)


def _free(state: State, worker_id: str, now: float) -> Room:
    free = state.pool.room[worker_id]
    for one in state.reserved_on(worker_id):
        free = free.minus(state.left_of(one)) if one.until > now else free
    return free


def _size(part: Room) -> str:
    gpus = f"{len(part.gpus)} GPU" if part.gpus else ""
    return ", ".join(words for words in (gpus, f"{part.cpu:g} CPU" if part.cpu else "") if words) or "its place"


def _estimate(at: float, basis: str, *, certain: bool = False) -> Estimate:
    if at == UNKNOWN:
        return Estimate(basis="unknown: no end is known of what runs there (no `timeout`, no past runs)")
    return Estimate(starts_at=datetime.fromtimestamp(at, UTC), basis=basis, certain=certain)
