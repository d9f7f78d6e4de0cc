"""The scheduler's HTTP edge: workers, resources, and why a task waits."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, TypeVar

from fastapi import APIRouter, Path, Query

from services.scheduler import requests, views
from services.scheduler.leases import Leases
from services.scheduler.passes import Passes
from services.scheduler.store import (
    RESERVATIONS,
    STRATEGIES,
    WORKERS,
    all_of,
    find_entry,
)
from trainwright.contracts.base import Event
from trainwright.contracts.errors import NotFound
from trainwright.contracts.pool import AllocationPage, DemandView, PoolUse, PoolView
from trainwright.contracts.quota import (
    CordonDocument,
    Drain,
    QuotaList,
    ReservationDocument,
    ReservationList,
    Reserve,
    SetQuota,
    Strategy,
)
from trainwright.contracts.waiting import Simulate, Simulated, Why
from trainwright.contracts.worker import WorkerList, WorkerView
from trainwright.runtime.http import Caller, Calling
from trainwright.runtime.outbox import accept, emit
from trainwright.runtime.waiting import is_known
from trainwright.storage.again import again_if_busy
from trainwright.storage.document import Collection, Transaction, decode_cursor, encode_cursor

T = TypeVar("T")
WorkerId = Annotated[str, Path(max_length=100)]
Name = Annotated[str, Path(min_length=1, max_length=200)]
Ask = Callable[[Transaction], Awaitable[tuple[T, Sequence[Event]]]]


def build_router(passes: Passes, leases: Leases) -> APIRouter:
    """Return the routes of workers, resources and waiting."""
    router = APIRouter()
    router.include_router(_worker_routes(passes, leases))
    router.include_router(_resource_routes(passes, leases))
    router.include_router(_quota_routes(passes))
    router.include_router(_waiting_routes(passes))
    return router


async def _decide(
    passes: Passes, caller: Caller, collection: Collection, id: Callable[[T], str], ask: Ask[T]
) -> T:
    """Save what was asked for with its events, and let a pass see it; again if it met another process's."""

    async def once() -> T:
        async with passes.store.transaction() as tx:
            await passes.look_in(tx)
            found, events = await ask(tx)
            await emit(tx, events, source="scheduler", cause=caller.cause, clock=passes.clock)
            passes.board.touch(collection.name, id(found))
        return found

    await accept(passes.store)
    found = await again_if_busy(once)
    passes.wake()
    return found


def _worker_routes(passes: Passes, leases: Leases) -> APIRouter:
    router, clock = APIRouter(tags=["workers"]), passes.clock

    @router.get("/workers", summary="Workers: what they offer, what is free, what they run")
    async def list_workers() -> WorkerList:
        board = await passes.look()
        return WorkerList(workers=[views.worker_view(board, known, leases) for known in views.listed(board)])

    @router.get("/workers/{worker_id}", summary="One worker")
    async def show_worker(worker_id: WorkerId) -> WorkerView:
        board = await passes.look()
        if worker_id not in board.workers:
            raise NotFound(f"there is no worker {worker_id!r}")
        return views.worker_view(board, board.workers[worker_id], leases)

    @router.post("/workers/{worker_id}/drain", summary="Let a worker take nothing new; what runs there goes on")
    async def drain_worker(worker_id: WorkerId, caller: Calling, wish: Drain | None = None) -> CordonDocument:
        async def ask(tx: Transaction) -> tuple[CordonDocument, Sequence[Event]]:
            return await requests.drain(worker_id, wish or Drain(), actor=caller.actor, tx=tx, clock=clock)

        return await _decide(passes, caller, WORKERS, lambda found: found.worker_id, ask)

    @router.post("/workers/{worker_id}/undrain", summary="Let a worker take attempts again")
    async def undrain_worker(worker_id: WorkerId, caller: Calling) -> CordonDocument:
        async def ask(tx: Transaction) -> tuple[CordonDocument, Sequence[Event]]:
            return await requests.undrain(worker_id, actor=caller.actor, tx=tx, clock=clock)

        return await _decide(passes, caller, WORKERS, lambda found: found.worker_id, ask)

    return router


def _resource_routes(passes: Passes, leases: Leases) -> APIRouter:
    router, store, clock = APIRouter(prefix="/resources", tags=["resources"]), passes.store, passes.clock

    @router.get("/pool", summary="The pool: what there is, what is free, what is reserved")
    async def show_pool() -> PoolView:
        return views.pool_view(await passes.look())

    @router.get("/allocations", summary="Who has which place, since when, until when")
    async def list_allocations(
        limit: Annotated[int, Query(ge=1, le=500, description="Most places on a page.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of another page.")] = None,
    ) -> AllocationPage:
        after = "" if cursor is None else decode_cursor(cursor, "allocations")[1]
        page = views.allocation_page(await passes.look(), limit, after)
        if page.next_cursor is None:
            return page
        return page.model_copy(update={"next_cursor": encode_cursor(None, page.next_cursor, "allocations")})

    @router.get("/usage", summary="What is in use by strategy, and what workers measured")
    async def show_usage() -> PoolUse:
        quotas = [Strategy.model_validate(found) for found in await all_of(store, STRATEGIES)]
        return views.pool_use(await passes.look(), quotas, leases)

    @router.get("/demand", summary="Waiting tasks that more workers could help, by shape")
    async def show_demand() -> DemandView:
        return views.demand_view(await passes.look())

    @router.get("/reservations", summary="Parts of workers that are kept, and until when")
    async def list_reservations() -> ReservationList:
        now = clock.now()
        found = [ReservationDocument.model_validate(item) for item in await all_of(store, RESERVATIONS)]
        standing = [one for one in found if not one.ended and one.until > now]
        return ReservationList(reservations=sorted(standing, key=lambda one: (one.until, one.reservation_id)))

    @router.post("/reservations", status_code=201, summary="Keep a part of a worker until a moment")
    async def make_reservation(wish: Reserve, caller: Calling) -> ReservationDocument:
        async def ask(tx: Transaction) -> tuple[ReservationDocument, Sequence[Event]]:
            return await requests.reserve(wish, passes.board, actor=caller.actor, tx=tx, clock=clock)

        return await _decide(passes, caller, RESERVATIONS, lambda found: found.reservation_id, ask)

    @router.delete("/reservations/{reservation_id}", summary="End a reservation; runs in it go on")
    async def end_reservation(reservation_id: WorkerId, caller: Calling) -> ReservationDocument:
        async def ask(tx: Transaction) -> tuple[ReservationDocument, Sequence[Event]]:
            return await requests.end_reservation(reservation_id, actor=caller.actor, tx=tx, clock=clock)

        return await _decide(passes, caller, RESERVATIONS, lambda found: found.reservation_id, ask)

    return router


def _quota_routes(passes: Passes) -> APIRouter:
    router, store, clock = APIRouter(prefix="/resources/quotas", tags=["resources"]), passes.store, passes.clock
    grace = passes.settings.preempt_grace

    @router.get("", summary="Declared strategies and their quotas")
    async def list_quotas() -> QuotaList:
        found = [Strategy.model_validate(item) for item in await all_of(store, STRATEGIES)]
        return QuotaList(quotas=sorted((one for one in found if not one.removed), key=lambda one: one.strategy))

    @router.get("/{strategy}", summary="One strategy's quota")
    async def show_quota(strategy: Name) -> Strategy:
        found = await store.get(STRATEGIES.name, strategy)
        if found is None or found["removed"]:
            raise NotFound(f"no quota is declared for strategy {strategy!r}")
        return Strategy.model_validate(found)

    @router.put("/{strategy}", summary="Declare a strategy, or change its quota")
    async def set_quota(strategy: Name, wish: SetQuota, caller: Calling) -> Strategy:
        async def ask(tx: Transaction) -> tuple[Strategy, Sequence[Event]]:
            return await requests.set_quota(
                strategy, wish, passes.board, grace=grace, actor=caller.actor, tx=tx, clock=clock
            )

        return await _decide(passes, caller, STRATEGIES, lambda found: found.strategy, ask)

    @router.delete("/{strategy}", summary="Take a strategy's quota away")
    async def remove_quota(strategy: Name, caller: Calling) -> Strategy:
        async def ask(tx: Transaction) -> tuple[Strategy, Sequence[Event]]:
            return await requests.remove_quota(strategy, actor=caller.actor, tx=tx, clock=clock)

        return await _decide(passes, caller, STRATEGIES, lambda found: found.strategy, ask)

    return router


def _waiting_routes(passes: Passes) -> APIRouter:
    router = APIRouter()

    @router.get("/tasks/{task_id}/why", tags=["tasks"], summary="Why a task waits, and what would unblock it")
    async def show_why(task_id: WorkerId) -> Why:
        async def known() -> bool:
            return await find_entry(passes.store, task_id) is not None

        await is_known(task_id, known, passes.store)
        board, entry = await passes.look(), await find_entry(passes.store, task_id)
        if entry is None:
            raise NotFound(f"there is no task {task_id!r}")
        return views.why_view(board, entry)

    @router.post("/resources/simulate", tags=["resources"], summary="What would happen to a submission now")
    async def simulate(wish: Simulate) -> Simulated:
        return views.simulated(await passes.look(), wish)

    return router
