"""What the scheduler asks of its store, in its own words."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from services.scheduler.domain import Waiting, queue_order
from trainwright.contracts.queue import Placement, PlacementState
from trainwright.contracts.resource import ResourceRequirements
from trainwright.contracts.task import TaskDocument
from trainwright.contracts.worker import WorkerDocument
from trainwright.storage.document import Collection, In, Reader, Transaction

ENTRIES = Collection("entries", indexes=("state", "order", "worker_id"))
WORKERS = Collection("workers", indexes=("state",))
COLLECTIONS = (ENTRIES, WORKERS)

ALIVE, DRAINING, STOPPED, LOST = "alive", "draining", "stopped", "lost"
ALL = 100_000
PASS = 1000
"""Waiting tasks that one pass looks at."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A task as the scheduler keeps it: its copy of the document, and its own placement."""

    task: TaskDocument
    placement: Placement
    assigned_at: datetime | None = None
    told: str = ""
    """The reason for waiting that was last told."""
    traceparent: str | None = None
    """The trace of the event that last changed the task; what a pass decides goes on in it."""

    def moved(self, now: datetime, **fields: Any) -> "Entry":
        """Return this entry with the placement's next version."""
        news = {**fields, "version": self.placement.version + 1, "updated_at": now}
        return replace(self, placement=self.placement.model_copy(update=news))


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A worker's own document, and how it stands with us."""

    worker: WorkerDocument
    state: str


async def find_entry(reader: Reader, task_id: str) -> Entry | None:
    """Return a task's entry, or None."""
    found = await reader.get(ENTRIES.name, task_id)
    return None if found is None else _entry(found)


async def get_entry(reader: Reader, task_id: str) -> Entry:
    """Return the entry of a task that is known to have one."""
    entry = await find_entry(reader, task_id)
    assert entry is not None, task_id
    return entry


async def save_entry(tx: Transaction, entry: Entry) -> None:
    """Write an entry; released ones leave the indexes that passes use."""
    placement = entry.placement
    document = {
        "task": entry.task.model_dump(mode="json"),
        "placement": placement.model_dump(mode="json"),
        "assigned_at": entry.assigned_at,
        "told": entry.told,
        "traceparent": entry.traceparent,
        "state": placement.state,
        "order": queue_order(entry.task) if placement.state is PlacementState.QUEUED else None,
        "worker_id": placement.worker_id if placement.state is PlacementState.ASSIGNED else None,
    }
    await tx.put(ENTRIES.name, placement.task_id, document)


@dataclass(frozen=True, slots=True)
class Queued:
    """A waiting task as a pass sees it, and the reason that was last told."""

    waiting: Waiting
    told: str


async def queued(reader: Reader) -> list[Queued]:
    """Return waiting tasks in their order.

    Only what a pass needs is read, without validating whole documents again: a queue is long, a pass is frequent.
    """
    page = await reader.find(ENTRIES.name, {"state": PlacementState.QUEUED}, sort="order", limit=PASS)
    return [_queued(item) for item in page.items]


async def assigned(reader: Reader, worker_id: str | None = None) -> list[Entry]:
    """Return placements that hold slots, of one worker or of all."""
    where = {"state": PlacementState.ASSIGNED} if worker_id is None else {"worker_id": worker_id}
    page = await reader.find(ENTRIES.name, where, limit=ALL)
    return [_entry(item) for item in page.items]


async def find_worker(reader: Reader, worker_id: str) -> WorkerEntry | None:
    """Return a worker, or None."""
    found = await reader.get(WORKERS.name, worker_id)
    return None if found is None else _worker(found)


async def save_worker(tx: Transaction, entry: WorkerEntry) -> None:
    """Write a worker."""
    document = {"worker": entry.worker.model_dump(mode="json"), "state": entry.state}
    await tx.put(WORKERS.name, entry.worker.worker_id, document)


async def workers(reader: Reader, *states: str) -> list[WorkerEntry]:
    """Return workers in these states (all, without any), in a stable order."""
    page = await reader.find(WORKERS.name, {"state": In(states)} if states else None, limit=ALL)
    return [_worker(item) for item in page.items]


def _queued(found: dict[str, Any]) -> Queued:
    task, later = found["task"], found["task"]["not_before"]
    needs = ResourceRequirements.model_construct(**task["config"]["resource_requirements"])
    return Queued(Waiting(task["task_id"], needs, datetime.fromisoformat(later) if later else None), found["told"])


def _entry(found: dict[str, Any]) -> Entry:
    at = found["assigned_at"]
    return Entry(
        task=TaskDocument.model_validate(found["task"]),
        placement=Placement.model_validate(found["placement"]),
        assigned_at=datetime.fromisoformat(at) if at else None,
        told=found["told"],
        traceparent=found["traceparent"],
    )


def _worker(found: dict[str, Any]) -> WorkerEntry:
    return WorkerEntry(WorkerDocument.model_validate(found["worker"]), found["state"])
