"""What the scheduler shows: answers built from the board. Nothing is decided here."""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from services.scheduler.board import Board, host_of
from services.scheduler.domain.planning import plan
from services.scheduler.domain.pool import Needs, Room, free_room
from services.scheduler.domain.queue import Waiting, never_fits
from services.scheduler.domain.shares import Excess, Ledger, dominant
from services.scheduler.domain.state import UNKNOWN, Run
from services.scheduler.domain.why import why
from services.scheduler.leases import Leases
from services.scheduler.store import DRAINING, Entry, WorkerEntry
from trainwright.contracts.errors import FieldError, ResourceLimitError
from trainwright.contracts.pool import (
    Allocation,
    AllocationPage,
    Amount,
    Demand,
    DemandView,
    PoolUse,
    PoolView,
    PoolWorker,
    StrategyUse,
)
from trainwright.contracts.quota import Strategy
from trainwright.contracts.resource import ResourceRequirements, ResourceUsage, Slots
from trainwright.contracts.waiting import Part, Simulate, Simulated, Why
from trainwright.contracts.worker import AttemptRef, WorkerView

MIB = 2**20
GONE_SHOWN = timedelta(hours=24)
"""A worker that left or was lost is listed for so long."""
NOT_SUBMITTED = "not submitted"


def worker_state(known: WorkerEntry) -> str:
    """Return how a worker stands; one that is left out counts as draining."""
    return DRAINING if known.cordon is not None and known.state == "alive" else known.state


def listed(board: Board) -> list[WorkerEntry]:
    """Return the workers that people see, by name: not those that have long been gone and have nothing left."""
    now, runs_on = board.clock.now(), board.state.runs_on
    return [
        known
        for worker_id, known in sorted(board.workers.items())
        if known.gone_at is None or now - known.gone_at < GONE_SHOWN or runs_on.get(worker_id)
    ]


def worker_view(board: Board, known: WorkerEntry, leases: Leases) -> WorkerView:
    """Return a worker: what it offers, what is free, what it runs, when it was heard."""
    worker, state = known.worker, board.state
    parts = state.runs_on.get(worker.worker_id, {})
    host = host_of(worker)
    free = free_room(host, parts.values())
    pulse = leases.pulses.get(worker.worker_id)
    return WorkerView(
        worker_id=worker.worker_id,
        hostname=worker.hostname,
        state=worker_state(known),
        reason="" if known.cordon is None else known.cordon.reason,
        cpus=worker.cpus,
        memory=worker.memory,
        gpus=worker.gpus,
        labels=worker.labels,
        free=Slots(gpus=list(free.gpus), cpu=free.cpu, memory=free.memory),
        attempts=[AttemptRef(task_id=name, attempt=state.runs[name].attempt) for name in parts],
        usage=pulse.heartbeat.usage if pulse else ResourceUsage(),
        heartbeat_age_seconds=None if pulse is None else round(leases.clock.monotonic() - pulse.heard, 3),
        registered_at=worker.registered_at,
    )


def pool_view(board: Board) -> PoolView:
    """Return what there is, what is free, what is reserved."""
    state = board.state
    rows = [_pool_worker(board, known) for known in listed(board)]
    taking = [row for row in rows if row.worker_id in state.pool.hosts]
    return PoolView(
        total=_sum(row.total for row in taking),
        free=_sum(row.free for row in taking),
        reserved=_sum(row.reserved for row in taking),
        allocated=_sum(_amount(part) for run in state.runs.values() for _, part in run.parts),
        waiting=len(state.queue.waiting),
        running=len(state.runs),
        workers=rows,
    )


def _pool_worker(board: Board, known: WorkerEntry) -> PoolWorker:
    state, worker = board.state, known.worker
    runs = state.runs_on.get(worker.worker_id, {})
    total = Room(tuple(gpu.index for gpu in worker.gpus), worker.cpus, worker.memory)
    free = state.pool.room.get(worker.worker_id, Room())
    reserved = Room()
    for kept in state.reserved_on(worker.worker_id):
        left = state.left_of(kept)
        reserved, free = reserved.plus(left), free.minus(left)
    return PoolWorker(
        worker_id=worker.worker_id,
        hostname=worker.hostname,
        state=worker_state(known),
        reason="" if known.cordon is None else known.cordon.reason,
        total=_amount(total),
        free=_amount(free),
        reserved=_amount(reserved),
        runs=len(runs),
    )


def allocation_page(board: Board, limit: int, after: str) -> AllocationPage:
    """Return who has which place, by task, beginning after one."""
    runs = board.state.runs
    names = sorted(name for name in runs if name > after)
    page = names[:limit]
    return AllocationPage(
        allocations=[_allocation(board, runs[name]) for name in page],
        total=len(runs),
        next_cursor=page[-1] if len(names) > limit else None,
    )


def _allocation(board: Board, run: Run) -> Allocation:
    return Allocation(
        task_id=run.task_id,
        name=board.names.get(run.task_id, ""),
        attempt=run.attempt,
        priority=run.priority,
        strategy=run.strategy or None,
        parts=parts_of(run.parts),
        since=datetime.fromtimestamp(run.since, UTC),
        ends_at=None if run.ends == UNKNOWN else datetime.fromtimestamp(run.ends, UTC),
        basis=run.basis,
        preemptible=run.preemptible,
        gives_way_to=run.gives_way_to,
        guest_of=run.guest_of,
        reservation_id=run.reservation,
    )


def pool_use(board: Board, quotas: Sequence[Strategy], leases: Leases) -> PoolUse:
    """Return what is in use, by strategy, and what workers measured."""
    state, now = board.state, board.now()
    ledger = Ledger(state.shares, state.pool, now)
    declared = {quota.strategy: quota for quota in quotas if not quota.removed}
    waiting: dict[str, int] = {}
    for one in state.queue.waiting.values():
        waiting[one.strategy] = waiting.get(one.strategy, 0) + 1
    busy = {name for name, account in state.shares.accounts.items() if account.now.members}
    names = sorted(busy | waiting.keys() | declared.keys(), key=lambda name: (ledger.share(name), name))
    gpus, cpus, memory = state.pool.total()
    return PoolUse(
        allocated=_sum(_amount(part) for run in state.runs.values() for _, part in run.parts),
        total=Amount(gpu=int(gpus), cpu=cpus, memory=int(memory)),
        measured=_measured(board, leases),
        strategies=[_strategy_use(name, ledger, waiting, declared.get(name), now) for name in names],
    )


def demand_view(board: Board) -> DemandView:
    """Return which waiting tasks more workers could help, by shape, those first that have waited longest."""
    found, ledger = [], Ledger(board.state.shares, board.state.pool, board.now())
    for shape, group in board.state.queue.groups.items():
        reason, excess = group.reason, None
        if never_fits(shape, board.state.pool) is None:  # asked anew: a group that was left and joined knows none
            excess = ledger.excess(shape.strategy, shape.needs)
        if shape.claims or (excess is not None and not _grows(excess)):
            continue
        reason = reason if excess is None else excess.reason(shape.strategy)
        since = min(board.state.queue.waiting[task_id].queued_at for _, _, task_id in group.members)
        needs = shape.needs
        found.append(
            Demand(
                gpu=needs.gpu,
                cpu=needs.cpu,
                memory=needs.memory,
                gpu_memory=needs.gpu_memory,
                count=len(group.members) * needs.members,
                waits_for=None if reason is None else reason.wait,
                reason="" if reason is None else reason.words,
                waited_seconds=round(max(0.0, board.now() - since), 3),
            )
        )
    found.sort(key=lambda one: -one.waited_seconds)
    return DemandView(waiting=len(board.state.queue.waiting), demand=found)


def _grows(excess: Excess) -> bool:
    """Return whether more workers make a quota large enough for a task that exceeds it by itself."""
    return excess.alone and bool(excess.share)


def _strategy_use(
    name: str, ledger: Ledger, waiting: dict[str, int], quota: Strategy | None, now: float
) -> StrategyUse:
    used, account = ledger.used(name), ledger.shares.accounts.get(name)
    return StrategyUse(
        strategy=name or None,
        used=Amount(gpu=used.gpu, cpu=used.cpu, memory=used.memory),
        gpu_memory_mb=used.gpu_memory // MIB,
        workers=used.members,
        share=dominant(used, ledger.total),
        recent_share=0.0 if account is None else account.moved(now, ledger.pool),
        waiting=waiting.get(name, 0),
        quota=quota,
    )


def _measured(board: Board, leases: Leases) -> ResourceUsage:
    usages = [pulse.heartbeat.usage for name, pulse in leases.pulses.items() if name in board.state.pool.hosts]
    gpus = [usage.gpu for usage in usages if usage.gpu is not None]
    return ResourceUsage(
        gpu=sum(gpus) / len(gpus) if gpus else None,
        gpu_memory=_added(usage.gpu_memory for usage in usages),
        cpu=_added(usage.cpu for usage in usages),
        memory=_added(usage.memory for usage in usages),
    )


def _added(values: Iterable[float | None]) -> int | None:
    known = [value for value in values if value is not None]
    return int(sum(known)) if known else None


def why_view(board: Board, entry: Entry) -> Why:
    """Return why a task waits, or where it stands if it does not."""
    task, state = entry.task, board.state
    waiting = state.queue.waiting.get(task.task_id)
    if waiting is not None:
        return why(state, waiting, board.now(), board.names)
    run = state.runs.get(task.task_id)
    reason = task.reason or f"it is {task.status}"
    if run is not None:
        where = ", ".join(worker_id for worker_id, _ in run.parts)
        since = datetime.fromtimestamp(run.since, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        reason = f"it waits for no place: it has had one on {where} since {since}"
        if run.gives_way_to is not None:
            reason += f"; it gives that up for {run.gives_way_to}"
        elif run.guest_of in state.queue.waiting:
            reason += f"; that is kept for {run.guest_of}, which takes it once it can start"
    return Why(
        task_id=task.task_id,
        waits=False,
        reason=reason,
        waiting=len(state.queue.waiting),
        priority=task.config.priority,
        strategy=task.config.strategy,
    )


def simulated(board: Board, wish: Simulate) -> Simulated:
    """Return what would happen to a submission now.

    Raises:
        ResourceLimitError: Its strategy's quota could never be kept.
    """
    now = board.now()
    waiting = Waiting(
        NOT_SUBMITTED,
        needs_of(wish.resource_requirements),
        wish.priority,
        now,
        wish.strategy or "",
        limit=wish.timeout,
        queued_at=now,
    )
    check_quota(board, waiting.strategy, waiting.needs)
    found = plan(board.state, now, extra=[waiting], limit=10_000)
    for seat in found.seats:
        if seat.task_id == NOT_SUBMITTED:
            return Simulated(starts_now=True, parts=parts_of(seat.parts))
    those = [*found.clearings, *found.put_off.values()]
    victims = [name for one in those if one.task_id == NOT_SUBMITTED for name in one.victims]
    return Simulated(starts_now=False, preempts=victims, why=why(board.state, waiting, now, board.names))


def check_quota(board: Board, strategy: str, needs: Needs) -> None:
    """Refuse what a strategy's quota could never allow.

    Raises:
        ResourceLimitError: So it is.
    """
    excess = Ledger(board.state.shares, board.state.pool, 0.0).excess(strategy, needs)
    if excess is not None and excess.alone and not _grows(excess):
        message = f"{excess.reason(strategy).words}; ask for less, or raise the quota"
        raise ResourceLimitError(message, [FieldError(path="resource_requirements", message=message)])


def needs_of(wish: ResourceRequirements) -> Needs:
    """Return what is asked for as placing sees it."""
    return Needs(wish.gpu, wish.cpu, wish.memory, wish.gpu_memory, wish.workers)


def parts_of(parts: Sequence[tuple[str, Room]]) -> list[Part]:
    """Return parts of workers for people."""
    return [
        Part(worker_id=name, slots=Slots(gpus=list(part.gpus), cpu=part.cpu, memory=part.memory))
        for name, part in parts
    ]


def _amount(room: Room) -> Amount:
    return Amount(gpu=len(room.gpus), cpu=round(max(0.0, room.cpu), 6), memory=max(0, room.memory))


def _sum(amounts: Iterable[Amount]) -> Amount:
    found = list(amounts)
    return Amount(
        gpu=sum(one.gpu for one in found),
        cpu=round(sum(one.cpu for one in found), 6),
        memory=sum(one.memory for one in found),
    )
