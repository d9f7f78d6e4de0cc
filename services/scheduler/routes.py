"""The scheduler's HTTP edge: workers."""

from typing import Annotated

from fastapi import APIRouter, Path

from services.scheduler.domain import free_slots
from services.scheduler.leases import Leases
from services.scheduler.store import WorkerEntry, assigned, find_worker, workers
from trainwright.contracts.errors import NotFound
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.worker import AttemptRef, WorkerList, WorkerView
from trainwright.storage.document import DocumentStore


def build_router(store: DocumentStore, leases: Leases) -> APIRouter:
    """Return the routes of workers."""
    router = APIRouter(tags=["workers"])

    @router.get("/workers", summary="Workers: what they offer, what is free, what they run")
    async def list_workers() -> WorkerList:
        return WorkerList(workers=[await view(known) for known in await workers(store)])

    @router.get("/workers/{worker_id}", summary="One worker")
    async def show_worker(worker_id: Annotated[str, Path(max_length=100)]) -> WorkerView:
        known = await find_worker(store, worker_id)
        if known is None:
            raise NotFound(f"there is no worker {worker_id!r}")
        return await view(known)

    async def view(known: WorkerEntry) -> WorkerView:
        worker = known.worker
        placements = [entry.placement for entry in await assigned(store, worker.worker_id)]
        pulse = leases.pulses.get(worker.worker_id)
        age = None if pulse is None else round(leases.clock.monotonic() - pulse.heard, 3)
        return WorkerView(
            worker_id=worker.worker_id,
            hostname=worker.hostname,
            state=known.state,
            cpus=worker.cpus,
            memory=worker.memory,
            gpus=worker.gpus,
            free=free_slots(worker, [placement.slots for placement in placements]),
            attempts=[AttemptRef(task_id=p.task_id, attempt=p.attempt) for p in placements],
            usage=pulse.heartbeat.usage if pulse else ResourceUsage(),
            heartbeat_age_seconds=age,
            registered_at=worker.registered_at,
        )

    return router
