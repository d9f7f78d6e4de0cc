"""What operators ask for: quotas, reservations, workers left out. Each is kept with its actor, and told."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from services.scheduler.board import Board
from services.scheduler.domain.pool import Needs, View
from services.scheduler.domain.queue import size_of
from services.scheduler.domain.reclaiming import over_the_quota
from services.scheduler.domain.shares import Quota
from services.scheduler.members import stop_commands
from services.scheduler.store import (
    ENTRIES,
    RESERVATIONS,
    STRATEGIES,
    Cordon,
    WorkerEntry,
    find_entry,
    get_entry,
    get_worker,
    save_entry,
    save_worker,
)
from trainwright.contracts.base import Event
from trainwright.contracts.errors import Conflict, FieldError, InvalidInput, NotFound, ResourceLimitError
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.quota import (
    CordonDocument,
    Drain,
    ReservationChanged,
    ReservationDocument,
    Reserve,
    SetQuota,
    Strategy,
    StrategyChanged,
    WorkerCordoned,
)
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import FINAL, StopKind
from trainwright.runtime.clock import Clock
from trainwright.storage.document import Transaction

Answer = tuple[Strategy, Sequence[Event]]


async def set_quota(
    name: str, wish: SetQuota, board: Board, *, grace: float, actor: str, tx: Transaction, clock: Clock
) -> Answer:
    """Declare a strategy, or change its quota; if so wished, have runs that are over it save and go."""
    fields = wish.model_dump(exclude={"reclaim"})
    strategy = Strategy(strategy=name, version=0, **fields, actor=actor, updated_at=clock.now())
    strategy, events = await _save_strategy(strategy, tx)
    reclaimed = await _reclaim(strategy, board, grace, tx) if wish.reclaim else []
    return strategy, [*events, *reclaimed]


async def _reclaim(strategy: Strategy, board: Board, grace: float, tx: Transaction) -> list[Event]:
    """Ask runs of a strategy that are over its quota to save a checkpoint and give their places up."""
    quota = Quota(strategy.cpu_percent, strategy.gpu_memory_mb, strategy.max_workers, strategy.weight)
    events: list[Event] = []
    for run in over_the_quota(strategy.strategy, quota, board.state, board.now()):
        entry = await get_entry(tx, run.task_id)
        if entry.placement.state is not PlacementState.ASSIGNED or entry.asked is not None:
            continue
        await save_entry(tx, replace(entry, asked=StopKind.PREEMPT))
        board.touch(ENTRIES.name, run.task_id)
        why = f"its place is reclaimed: it is over the quota of strategy {strategy.strategy}"
        events += stop_commands(entry, StopKind.PREEMPT, grace=grace, reason=why)
    return events


async def remove_quota(name: str, *, actor: str, tx: Transaction, clock: Clock) -> Answer:
    """Take a declaration back: the strategy has no quota any more."""
    known = await tx.get(STRATEGIES.name, name)
    if known is None or known["removed"]:
        raise NotFound(f"no quota is declared for strategy {name!r}")
    news = {"removed": True, "actor": actor, "updated_at": clock.now()}
    return await _save_strategy(Strategy.model_validate(known).model_copy(update=news), tx)


async def _save_strategy(strategy: Strategy, tx: Transaction) -> Answer:
    known = await tx.get(STRATEGIES.name, strategy.strategy)
    strategy = strategy.model_copy(update={"version": 1 + (known["version"] if known else 0)})
    await tx.put(STRATEGIES.name, strategy.strategy, strategy.model_dump(mode="json"))
    return strategy, [StrategyChanged(strategy=strategy)]


async def reserve(
    wish: Reserve, board: Board, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[ReservationDocument, Sequence[Event]]:
    """Keep a part of a worker that is free now.

    Raises:
        InvalidInput: The moment has passed.
        Conflict: The task has ended.
        ResourceLimitError: Nothing of that size is free.
    """
    now = clock.now()
    until = wish.until or now + timedelta(seconds=wish.duration or 0)
    if until <= now:
        message = f"{until.isoformat()} has passed; name a later moment"
        raise InvalidInput(message, [FieldError(path="until", message=message)])
    entry = None if wish.task_id is None else await find_entry(tx, wish.task_id)
    if entry is not None and entry.task.status in FINAL:
        message = f"task {wish.task_id} is {entry.task.status} and takes no place any more"
        raise Conflict(f"{message}; name one that has not ended, or run it again and name the new one")
    worker_id, slots = _free_part(wish, board)
    found = ReservationDocument(
        reservation_id=clock.new_id("reservation"),
        version=1,
        worker_id=worker_id,
        slots=slots,
        strategy=wish.strategy,
        task_id=wish.task_id,
        until=until,
        idle_after=wish.idle_after,
        actor=actor,
        created_at=now,
    )
    await tx.put(RESERVATIONS.name, found.reservation_id, found.model_dump(mode="json"))
    return found, [ReservationChanged(reservation=found)]


def _free_part(wish: Reserve, board: Board) -> tuple[str, Slots]:
    state, needs = board.state, Needs(wish.gpu, wish.cpu, wish.memory, wish.gpu_memory)
    if wish.worker_id is not None and wish.worker_id not in state.pool.hosts:
        raise NotFound(f"no worker {wish.worker_id!r} takes attempts now")
    view = View(state.pool)
    for kept in state.reservations.values():
        if kept.worker_id in state.pool.hosts and kept.until > board.now():
            view.give(kept.worker_id, state.left_of(kept))
    for worker_id, part in view.candidates(needs):
        if wish.worker_id in (None, worker_id):
            return worker_id, Slots(gpus=list(part.gpus), cpu=part.cpu, memory=part.memory)
    where = f"worker {wish.worker_id} has not" if wish.worker_id else "no worker has"
    raise ResourceLimitError(f"{where} {size_of(needs)} free; see what is: trainwright resource pool")


async def end_reservation(
    id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[ReservationDocument, Sequence[Event]]:
    """End a reservation; runs in it go on."""
    known = await tx.get(RESERVATIONS.name, id)
    found = None if known is None else ReservationDocument.model_validate(known)
    if found is None or found.ended or found.until <= clock.now():
        raise NotFound(f"no reservation {id!r} stands")
    found = found.model_copy(update={"version": found.version + 1, "ended": True, "actor": actor})
    await tx.put(RESERVATIONS.name, id, found.model_dump(mode="json"))
    return found, [ReservationChanged(reservation=found)]


async def drain(
    worker_id: str, wish: Drain, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[CordonDocument, Sequence[Event]]:
    """Let a worker take nothing new, until somebody takes that back; what runs there goes on."""
    known = await get_worker(tx, worker_id)
    return await cordon(known, Cordon(wish.reason, actor), tx=tx, clock=clock)


async def undrain(
    worker_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[CordonDocument, Sequence[Event]]:
    """Let a worker take attempts again; failures of before are forgotten."""
    known = await get_worker(tx, worker_id)
    return await uncordon(known, actor, tx=tx, clock=clock)


async def cordon(
    known: WorkerEntry, found: Cordon, *, tx: Transaction, clock: Clock
) -> tuple[CordonDocument, Sequence[Event]]:
    """Leave a worker out."""
    return await _save_cordon(known.left_out(found), found.actor, tx, clock)


async def uncordon(
    known: WorkerEntry, actor: str, *, tx: Transaction, clock: Clock
) -> tuple[CordonDocument, Sequence[Event]]:
    """Take a worker in again."""
    return await _save_cordon(known.taken_in(), actor, tx, clock)


async def _save_cordon(
    entry: WorkerEntry, actor: str, tx: Transaction, clock: Clock
) -> tuple[CordonDocument, Sequence[Event]]:
    await save_worker(tx, entry)
    kept = entry.cordon
    document = CordonDocument(
        worker_id=entry.worker.worker_id,
        version=entry.decisions,
        cordoned=kept is not None,
        reason="" if kept is None else kept.reason,
        actor=actor,
        until=None if kept is None else kept.until,
        at=clock.now(),
    )
    return document, [WorkerCordoned(cordon=document)]
