"""What a pass reads, kept in memory: folded from the store, document by document as they change.

The store stays the truth. Handlers say what they touched; a pass reads that again inside its own transaction,
where nobody else writes, before it plans. After a start, or when another scheduler was at work, all is read anew.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from services.scheduler.domain.gangs import is_through
from services.scheduler.domain.pool import Host, Needs, Room
from services.scheduler.domain.queue import NO_TENANT, Waiting
from services.scheduler.domain.shares import Account, Quota
from services.scheduler.domain.state import LIMIT, PAST_RUNS, UNKNOWN, Policy, Reservation, Run, State
from services.scheduler.domain.tasks import SHORTEST
from services.scheduler.store import (
    ALIVE,
    ENTRIES,
    PAST,
    RESERVATIONS,
    STRATEGIES,
    USE,
    WORKERS,
    WorkerEntry,
    all_of,
    worker_of,
)
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.task import StopKind
from trainwright.contracts.worker import WorkerDocument
from trainwright.runtime.clock import Clock
from trainwright.storage.document import In, Reader

Document = Mapping[str, Any]
COLLECTIONS = (WORKERS, STRATEGIES, RESERVATIONS, PAST, ENTRIES)

Touched = dict[str, dict[str, None]]
"""Names of documents, by collection, in the order in which they were touched."""


class Seated(NamedTuple):
    """A member of a run, and where it is."""

    rank: int
    worker_id: str
    incarnation: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What of a task's entry is needed beside the state of a pass."""

    version: int
    attempt: int
    members: tuple[Seated, ...]
    """Those whose workers must show that they are there."""
    told: str
    waits: bool
    """Whether a silent worker is waited for."""
    name: str = ""
    breaks_up: bool = False
    """Whether it is a gang that ends: some of its members are over."""


@dataclass(slots=True)
class Board:
    """The state of a pass, and what was touched since it was folded."""

    clock: Clock
    hears: Callable[[WorkerDocument], bool]
    """Whether a worker may be given work as far as we hear."""
    policy: Policy = field(default_factory=Policy)
    state: State = field(default_factory=State)
    workers: dict[str, WorkerEntry] = field(default_factory=dict)
    standings: dict[str, Standing] = field(default_factory=dict)
    """Of tasks that have a place, by task."""
    meetings: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Rank 0's worker and the port on which a gang's members meet there, by task."""
    names: dict[str, str] = field(default_factory=dict)
    """Names of the tasks that wait or run, for people."""
    past: dict[str, float] = field(default_factory=dict)
    """Median seconds of past runs by what they have in common."""
    versions: dict[str, int] = field(default_factory=dict)
    """Versions of the placements that wait: what a pass decides about others is void."""
    is_loaded: bool = False
    _base: float = 0.0
    _touched: Touched = field(default_factory=dict)
    _in_doubt: Touched = field(default_factory=dict)
    """What was folded in a transaction that is not known to be committed."""

    def touch(self, collection: str, id: str) -> None:
        """Note that a document is another one now, or will be when its transaction commits."""
        self._touched.setdefault(collection, {})[id] = None

    def forget(self) -> None:
        """Read everything anew at the next pass: somebody else may have written."""
        self.is_loaded = False

    @property
    def is_behind(self) -> bool:
        """Return whether there is something to fold."""
        return bool(self._touched or self._in_doubt) or not self.is_loaded

    def has_its_place(self, task_id: str, attempt: int) -> bool:
        """Return whether an attempt is known to have its whole place; False as well while that must be read.

        A heartbeat names every run of its worker: thousands of them are not read from the store every two seconds.
        """
        standing = self.standings.get(task_id)
        if standing is None or standing.attempt != attempt or standing.breaks_up:
            return False
        behind = (self._touched, self._in_doubt)
        return self.is_loaded and not any(task_id in one.get(ENTRIES.name, ()) for one in behind)

    def heeds_stop(self, task_id: str) -> bool:
        """Return whether a running task is known to heed a request to stop; False as well while nothing is."""
        run = self.state.runs.get(task_id)
        return run is not None and run.heeds_stop

    def now(self) -> float:
        """Return seconds of the epoch that never jump: wall time when all was read, and what has passed since."""
        return self._base + self.clock.monotonic()

    async def refresh(self, reader: Reader) -> Touched:
        """Fold what was touched. Only inside a transaction: nobody else may be about to commit.

        What is returned is folded again by the next who refreshes, unless it is settled before that.
        """
        for name, ids in self._in_doubt.items():
            self._touched.setdefault(name, {}).update(ids)
        touched, self._touched, self._in_doubt, fold = self._touched, {}, self._touched, self._fold
        try:
            if not self.is_loaded:
                self._base = self.clock.now().timestamp() - self.clock.monotonic()
                await self._load(reader, self.now())
            at = self.now()
            for collection in COLLECTIONS:
                for id in touched.get(collection.name, ()):
                    fold[collection.name](id, await reader.get(collection.name, id), at)
        except BaseException:
            self.forget()
            raise
        for worker_id in [name for name in self.state.pool.hosts if not self.hears(self.workers[name].worker)]:
            self.state.pool.drop(worker_id)
        for worker_id in [name for name in self.state.pool.drained if not self.hears(self.workers[name].worker)]:
            del self.state.pool.drained[worker_id]
        self.state.expire(at)
        self.state.queue.wake(at)
        return touched

    def settle(self, folded: Touched) -> None:
        """Note that the transaction is committed in which this was folded."""
        if self._in_doubt is folded:
            self._in_doubt = {}

    async def _load(self, reader: Reader, at: float) -> None:
        self.state = State(policy=self.policy)
        self.workers, self.standings, self.names, self.past, self.versions = {}, {}, {}, {}, {}
        self.meetings = {}
        for found in await all_of(reader, USE):
            self.state.shares.accounts[found["strategy"]] = Account(past=found["past"], at=found["at"])
        for collection in COLLECTIONS[:-1]:
            for found in await all_of(reader, collection):
                self._fold[collection.name](_id_of(found), found, at)
        live = In((PlacementState.ASSIGNED, PlacementState.QUEUED))
        entries = await all_of(reader, ENTRIES, {"state": live})
        for found in sorted(entries, key=lambda one: one.get("queued_at") or ""):
            self._fold_entry(found["task"]["task_id"], found, at)
        self.is_loaded = True

    @property
    def _fold(self) -> Mapping[str, Callable[[str, Document | None, float], None]]:
        return {
            WORKERS.name: self._fold_worker,
            STRATEGIES.name: self._fold_strategy,
            RESERVATIONS.name: self._fold_reservation,
            PAST.name: self._fold_past,
            ENTRIES.name: self._fold_entry,
        }

    def _fold_worker(self, worker_id: str, found: Document | None, at: float) -> None:
        if found is None:
            self.workers.pop(worker_id, None)
        else:
            self.workers[worker_id] = worker_of(found)
        self._offer(worker_id)

    def _offer(self, worker_id: str) -> None:
        """Put a worker in the pool with what is free there, or out of it."""
        entry, pool = self.workers.get(worker_id), self.state.pool
        pool.drained.pop(worker_id, None)
        if entry is not None and entry.state == ALIVE and entry.cordon is not None and self.hears(entry.worker):
            pool.drained[worker_id] = host_of(entry.worker)
        if entry is None or entry.state != ALIVE or entry.cordon is not None or not self.hears(entry.worker):
            pool.drop(worker_id)
            return
        host = host_of(entry.worker)
        pool.set(host, host.all)
        self.state.set_room(worker_id)

    def _fold_strategy(self, name: str, found: Document | None, at: float) -> None:
        if found is None or found["removed"]:
            self.state.shares.quotas.pop(name, None)
        else:
            quota = Quota(found["cpu_percent"], found["gpu_memory_mb"], found["max_workers"], found["weight"])
            self.state.shares.quotas[name] = quota

    def _fold_reservation(self, id: str, found: Document | None, at: float) -> None:
        if found is None or found["ended"]:
            self.state.reservations.pop(id, None)
            return
        until = datetime.fromisoformat(found["until"]).timestamp()
        kept = Reservation(
            id, found["worker_id"], _room(found["slots"]), until, found["strategy"], found["task_id"]
        )
        self.state.reservations[id] = kept

    def _fold_past(self, key: str, found: Document | None, at: float) -> None:
        if found is not None:
            self.past[key] = statistics.median(found["seconds"])

    def _fold_entry(self, task_id: str, found: Document | None, at: float) -> None:
        self._let_go(task_id, at)
        state = None if found is None else found["state"]
        if found is None or state != PlacementState.QUEUED:
            self.state.queue.drop(task_id)
            self.state.cleared.pop(task_id, None)
        if found is None or state not in (PlacementState.QUEUED, PlacementState.ASSIGNED):
            self.names.pop(task_id, None)
            return
        self.names[task_id] = found["task"]["name"]
        if state == PlacementState.QUEUED:
            self.versions[task_id] = found["placement"]["version"]
            self.state.put(waiting_of(found, at), at)
        else:
            self._take_in(task_id, found, at)

    def _take_in(self, task_id: str, found: Document, at: float) -> None:
        placement = found["placement"]
        self.state.add_run(run_of(found, self.past, at), at)
        self.standings[task_id] = Standing(
            placement["version"],
            placement["attempt"],
            _seated(found),
            found["told"],
            found["task"]["config"].get("on_unreachable") == "wait",
            found["task"]["name"],
            bool(found.get("endings")),
        )
        if placement.get("rendezvous"):
            self.meetings[task_id] = placement["worker_id"], placement["rendezvous"]["port"]

    def _let_go(self, task_id: str, at: float) -> None:
        self.versions.pop(task_id, None)
        self.standings.pop(task_id, None)
        self.meetings.pop(task_id, None)
        self.state.drop_run(task_id, at)


def host_of(worker: WorkerDocument) -> Host:
    """Return a worker as placing sees it."""
    gpus = {gpu.index: gpu.memory for gpu in worker.gpus}
    return Host(worker.worker_id, worker.incarnation, worker.cpus, worker.memory, gpus, worker.hostname)


def needs_of(found: Document) -> Needs:
    """Return what a task's document asks for."""
    return Needs(
        found.get("gpu", 0),
        found.get("cpu", 1.0),
        found.get("memory", 0),
        found.get("gpu_memory", 0),
        found.get("workers", 1),
    )


def waiting_of(found: Document, now: float) -> Waiting:
    """Return the entry of a waiting task as a pass sees it.

    Clocks may have been set: nothing was queued later than now, and no pause lasts longer than it was meant to.
    Only what a pass needs is read, without validating the whole document again: a queue is long.
    """
    task = found["task"]
    config = task["config"]
    timeout = config.get("timeout")
    return Waiting(
        task["task_id"],
        needs_of(config["resource_requirements"]),
        config["priority"],
        _seconds(task["created_at"]),
        config.get("strategy") or NO_TENANT,
        _pause_until(task, now),
        tuple(task.get("avoid_workers", ())),
        found.get("lost_on"),
        None if timeout is None else max(timeout - task["ran_seconds"], SHORTEST),
        min(now, _seconds(found.get("queued_at") or found["placement"]["updated_at"])),
        frozenset(found.get("spares", ())),
        preemptible=config.get("preemptible", True),
        told=found["told"],
    )


def _pause_until(task: Document, now: float) -> float | None:
    if not task.get("not_before"):
        return None
    until = _seconds(task["not_before"])
    return min(until, now + until - _seconds(task["updated_at"]))


def run_of(found: Document, past: Mapping[str, float], now: float) -> Run:
    """Return the entry of a task that has its place as a pass sees it."""
    task, placement = found["task"], found["placement"]
    config, slots = task["config"], placement["slots"]
    since = min(now, _seconds(found["assigned_at"]))
    ends, basis = _end(task, since, past)
    members = placement.get("members") or [{"worker_id": placement["worker_id"], "slots": slots}]
    needs = needs_of(config["resource_requirements"])
    needs = needs._replace(gpu=len(slots["gpus"]), cpu=slots["cpu"], memory=slots["memory"], members=len(members))
    return Run(
        task["task_id"],
        placement["attempt"],
        needs,
        tuple((one["worker_id"], _room(one["slots"])) for one in members),
        priority=config["priority"],
        strategy=config.get("strategy") or NO_TENANT,
        since=since,
        saved_at=_seconds(found["saved_at"]) if found.get("saved_at") else 0.0,
        saves_every=found.get("saves_every") or UNKNOWN,
        ends=ends,
        basis=basis,
        preemptible=config.get("preemptible", True),
        gave_way=found.get("gave_way", 0),
        spares=frozenset(found.get("spares", ())),
        gives_way_to=found.get("gives_way_to"),
        stopping=found.get("asked") is not None
        and (found["asked"] != StopKind.PREEMPT or found.get("gives_way_to") is None),
        reservation=found.get("reservation"),
        guest_of=found.get("guest_of"),
        heeds_stop=found.get("heeds_stop", False),
    )


def _room(slots: Document) -> Room:
    return Room(tuple(slots["gpus"]), slots["cpu"], slots["memory"])


def _seated(found: Document) -> tuple[Seated, ...]:
    """Return what `members.watched` does, without validating the whole document again."""
    placement = found["placement"]
    over = {one["rank"] for one in found.get("endings", ()) if is_through(one["rank"], one["outcome"])}
    members = placement.get("members") or [{"rank": 0, **placement}]
    return tuple(
        Seated(one["rank"], one["worker_id"], one["incarnation"]) for one in members if one["rank"] not in over
    )


def _end(task: Document, since: float, past: Mapping[str, float]) -> tuple[float, str]:
    """Return when a run will have ended, known by what."""
    timeout, ran = task["config"].get("timeout"), task["ran_seconds"]
    if timeout is not None:
        return since + max(timeout - ran, SHORTEST), LIMIT
    median = past.get(f"{task['config']['recipe']}/{task['name']}")
    if median is not None and median > ran:
        return since + median - ran, PAST_RUNS
    return UNKNOWN, "unknown"


def _seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def _id_of(found: Document) -> str:
    if "worker" in found:
        return str(found["worker"]["worker_id"])
    return str(found.get("reservation_id") or found.get("key") or found["strategy"])
