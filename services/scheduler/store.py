"""What the scheduler asks of its store, in its own words."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from services.scheduler.domain.gangs import Ending
from services.scheduler.domain.tasks import is_over, queue_order
from trainwright.contracts.errors import NotFound
from trainwright.contracts.queue import Placement, PlacementState
from trainwright.contracts.task import StopKind, TaskDocument, TaskStatus
from trainwright.contracts.worker import WorkerDocument
from trainwright.storage.document import Collection, In, Reader, Transaction, Where

ENTRIES = Collection("entries", indexes=("state", "order", "worker_id", "gang", "unheard"))
WORKERS = Collection("workers", indexes=("state",))
STRATEGIES = Collection("strategies")
RESERVATIONS = Collection("reservations")
PAST = Collection("past")
"""How long the latest runs of a name took."""
USE = Collection("use")
"""What strategies used in the recent past."""
COLLECTIONS = (ENTRIES, WORKERS, STRATEGIES, RESERVATIONS, PAST, USE)

ALIVE, DRAINING, STOPPED, LOST = "alive", "draining", "stopped", "lost"
ALL = 100_000
PAGE = 2_000
PAST_KEPT = 25
"""Runs of a name whose time is kept."""


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
    asked: StopKind | None = None
    """How the present attempt was last asked to stop, unless that was taken back."""
    lost_on: str | None = None
    """The worker that the last attempt was lost on."""
    queued_at: datetime | None = None
    """Since when it has waited without a break."""
    saved_at: datetime | None = None
    """When we heard of the newest checkpoint."""
    saves_every: float | None = None
    """Seconds from the checkpoint before it, or from the start, to the newest one that nobody had asked for."""
    gives_way_to: str | None = None
    """The task that its place is being cleared for."""
    gave_way: int = 0
    """How often it gave its place up."""
    spares: tuple[str, ...] = ()
    """Tasks that it gave its place up for."""
    reservation: str | None = None
    """The reservation that its place is part of."""
    guest_of: str | None = None
    """The task that its place is kept for."""
    heeds_stop: bool = False
    """Whether a run of it has shown that it asks if it should stop, and saves."""
    endings: tuple[Ending, ...] = ()
    """Of an attempt on several workers: members that are over, in the order in which that was heard."""

    @property
    def is_unheard(self) -> bool:
        """Whether its attempt was lost and its task does not know."""
        if self.placement.state is not PlacementState.RELEASED or self.lost_on is None:
            return False
        return not is_over(self.task, self.placement.attempt)

    def moved(self, now: datetime, **fields: Any) -> "Entry":
        """Return this entry with the placement's next version."""
        news = {**fields, "version": self.placement.version + 1, "updated_at": now}
        return replace(self, placement=self.placement.model_copy(update=news))


@dataclass(frozen=True, slots=True)
class Cordon:
    """Why a worker is left out, by whom, until when (None: until somebody takes it back)."""

    reason: str
    actor: str
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class WorkerEntry:
    """A worker's own document, and how it stands with us."""

    worker: WorkerDocument
    state: str
    cordon: Cordon | None = None
    """Why it takes nothing new although it says that it would."""
    bad: tuple[datetime, ...] = ()
    """When runs failed there for the worker's own fault, lately."""
    cordoned: int = 0
    """How often that had it left out."""
    decisions: int = 0
    """How often it was left out or taken in."""
    gone_at: datetime | None = None
    """Of one that left or was lost: when we noted it."""

    def left_out(self, cordon: Cordon) -> "WorkerEntry":
        """Return it as one that takes nothing new."""
        return replace(self, cordon=cordon, decisions=self.decisions + 1)

    def taken_in(self) -> "WorkerEntry":
        """Return it as one that takes attempts again."""
        return replace(self, cordon=None, bad=(), decisions=self.decisions + 1)


async def find_entry(reader: Reader, task_id: str) -> Entry | None:
    """Return a task's entry, or None."""
    found = await reader.get(ENTRIES.name, task_id)
    return None if found is None else _entry(found)


async def changed_entry(reader: Reader, task: TaskDocument, now: datetime) -> tuple[Entry, bool] | None:
    """Return a task's entry with its new document, and whether it completes with that; None without an entry.

    Of the old document, which is not validated for this, only what is compared is read.
    """
    found = await reader.get(ENTRIES.name, task.task_id)
    if found is None:
        return None
    entry, before = _entry(found, task), found["task"]
    newest = [one["manifest"] for one in before.get("checkpoints", ())[:1]]
    if [one.manifest for one in task.checkpoints[:1]] != newest:
        before_it = entry.saved_at or entry.assigned_at
        if before_it is not None and entry.asked is None:
            entry = replace(entry, saves_every=(now - before_it).total_seconds())
        entry = replace(entry, saved_at=now)
    return entry, task.status is TaskStatus.COMPLETED and before["status"] != TaskStatus.COMPLETED


async def get_entry(reader: Reader, task_id: str) -> Entry:
    """Return the entry of a task that is known to have one."""
    entry = await find_entry(reader, task_id)
    assert entry is not None, task_id
    return entry


@dataclass(frozen=True, slots=True)
class Newest:
    """A task's newest attempt, as far as heartbeats need it."""

    attempt: int
    has_its_place: bool
    lost_on: frozenset[str]
    """Workers that a member of it was lost on."""


async def newest_attempt(reader: Reader, task_id: str) -> Newest | None:
    """Return a task's newest attempt; None without an entry."""
    found = await reader.get(ENTRIES.name, task_id)
    if found is None:
        return None
    lost_on = frozenset(one["worker_id"] for one in found.get("endings", ()) if one["outcome"] is None)
    return Newest(found["placement"]["attempt"], found["state"] == PlacementState.ASSIGNED, lost_on)


async def save_entry(tx: Transaction, entry: Entry) -> None:
    """Write an entry; released ones leave the indexes that passes use."""
    placement = entry.placement
    document = {
        "task": entry.task.model_dump(mode="json"),
        "placement": placement.model_dump(mode="json"),
        "assigned_at": entry.assigned_at,
        "told": entry.told,
        "traceparent": entry.traceparent,
        "asked": entry.asked,
        "lost_on": entry.lost_on,
        "queued_at": entry.queued_at,
        "saved_at": entry.saved_at,
        "saves_every": entry.saves_every,
        "gives_way_to": entry.gives_way_to,
        "gave_way": entry.gave_way,
        "spares": list(entry.spares),
        "reservation": entry.reservation,
        "guest_of": entry.guest_of,
        "heeds_stop": entry.heeds_stop,
        "endings": [one.model_dump(mode="json") for one in entry.endings],
        "state": placement.state,
        "order": queue_order(entry.task) if placement.state is PlacementState.QUEUED else None,
        "worker_id": placement.worker_id if placement.state is PlacementState.ASSIGNED else None,
        "gang": "yes" if placement.members and placement.state is PlacementState.ASSIGNED else None,
        "unheard": "yes" if entry.is_unheard else None,
    }
    await tx.put(ENTRIES.name, placement.task_id, document)


async def assigned(reader: Reader, worker_id: str | None = None) -> list[Entry]:
    """Return placements that hold slots, of one worker or of all."""
    where = {"state": PlacementState.ASSIGNED} if worker_id is None else {"worker_id": worker_id}
    found = list((await reader.find(ENTRIES.name, where, limit=ALL)).items)
    if worker_id is not None:
        for item in (await reader.find(ENTRIES.name, {"gang": "yes"}, limit=ALL)).items:
            others = item["placement"]["members"][1:]
            found += [item] if worker_id in (member["worker_id"] for member in others) else []
    return [_entry(item) for item in found]


async def all_of(reader: Reader, collection: Collection, where: Where | None = None) -> list[dict[str, Any]]:
    """Return all documents of a collection that match, as they are stored."""
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = await reader.find(collection.name, where, limit=PAGE, cursor=cursor)
        found += page.items
        cursor = page.next_cursor
        if cursor is None:
            return found


async def note_past(tx: Transaction, key: str, seconds: float) -> None:
    """Keep how long a run took, for tasks of the same name that come later."""
    known = await tx.get(PAST.name, key) or {"seconds": []}
    await tx.put(PAST.name, key, {"key": key, "seconds": [*known["seconds"], seconds][-PAST_KEPT:]})


async def find_worker(reader: Reader, worker_id: str) -> WorkerEntry | None:
    """Return a worker, or None."""
    found = await reader.get(WORKERS.name, worker_id)
    return None if found is None else worker_of(found)


async def get_worker(reader: Reader, worker_id: str) -> WorkerEntry:
    """Return a worker.

    Raises:
        NotFound: There is none of this name.
    """
    found = await find_worker(reader, worker_id)
    if found is None:
        raise NotFound(f"there is no worker {worker_id!r}")
    return found


async def save_worker(tx: Transaction, entry: WorkerEntry) -> None:
    """Write a worker."""
    cordon = entry.cordon
    document = {
        "worker": entry.worker.model_dump(mode="json"),
        "state": entry.state,
        "cordon": None if cordon is None else [cordon.reason, cordon.actor, cordon.until],
        "bad": list(entry.bad),
        "cordoned": entry.cordoned,
        "decisions": entry.decisions,
        "gone_at": entry.gone_at,
    }
    await tx.put(WORKERS.name, entry.worker.worker_id, document)


async def workers(reader: Reader, *states: str) -> list[WorkerEntry]:
    """Return workers in these states (all, without any), in a stable order."""
    page = await reader.find(WORKERS.name, {"state": In(states)} if states else None, limit=ALL)
    return [worker_of(item) for item in page.items]


def _entry(found: dict[str, Any], task: TaskDocument | None = None) -> Entry:
    asked = found.get("asked")
    return Entry(
        task=task or TaskDocument.model_validate(found["task"]),
        placement=Placement.model_validate(found["placement"]),
        assigned_at=_moment(found["assigned_at"]),
        told=found["told"],
        traceparent=found["traceparent"],
        asked=StopKind(asked) if asked else None,
        lost_on=found.get("lost_on"),
        queued_at=_moment(found.get("queued_at")),
        saved_at=_moment(found.get("saved_at")),
        saves_every=found.get("saves_every"),
        gives_way_to=found.get("gives_way_to"),
        gave_way=found.get("gave_way", 0),
        spares=tuple(found.get("spares", ())),
        reservation=found.get("reservation"),
        guest_of=found.get("guest_of"),
        heeds_stop=found.get("heeds_stop", False),
        endings=tuple(Ending.model_validate(one) for one in found.get("endings", ())),
    )


def worker_of(found: Mapping[str, Any]) -> WorkerEntry:
    """Return a stored document as a worker."""
    cordon = found.get("cordon")
    return WorkerEntry(
        WorkerDocument.model_validate(found["worker"]),
        found["state"],
        Cordon(cordon[0], cordon[1], _moment(cordon[2])) if cordon else None,
        tuple(datetime.fromisoformat(at) for at in found.get("bad", ())),
        found.get("cordoned", 0),
        found.get("decisions", 0),
        _moment(found.get("gone_at")),
    )


def _moment(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None
