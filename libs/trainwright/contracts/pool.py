"""The pool as people see it: what there is, what is free, who has what."""

from pydantic import Field

from trainwright.contracts.base import AttemptNumber, Contract, TaskId, Timestamp, WorkerId, example
from trainwright.contracts.queue import WaitClass
from trainwright.contracts.quota import Strategy
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.waiting import Part

_ALL = {"gpu": 8, "cpu": 64, "memory": 549755813888}
_FREE = {"gpu": 3, "cpu": 40, "memory": 412316860416}
_PART = {"worker_id": "worker-7d20c4e91b55", "slots": {"gpus": [0, 1], "cpu": 8, "memory": 0}}


class Amount(Contract):
    """An amount of resources."""

    gpu: int = Field(0, description="Whole GPUs.")
    cpu: float = Field(0, description="CPU cores.")
    memory: int = Field(0, description="Bytes.")


class PoolWorker(Contract):
    """One worker of the pool."""

    worker_id: WorkerId
    hostname: str = Field(description="Name of its machine.")
    state: str = Field(description="`alive`, `draining`, `stopped` or `lost`.")
    reason: str = Field("", description="Why it takes nothing new, if that was decided here.")
    total: Amount
    free: Amount
    reserved: Amount
    runs: int = Field(description="Attempts that have a place there.")


class PoolView(Contract):
    """`GET /resources/pool`."""

    model_config = example(
        total=_ALL,
        free=_FREE,
        reserved={"gpu": 1, "cpu": 4, "memory": 0},
        allocated={"gpu": 4, "cpu": 20, "memory": 137438953472},
        waiting=14,
        running=6,
        workers=[],
    )
    total: Amount = Field(description="Of the workers that take attempts.")
    free: Amount
    reserved: Amount = Field(description="Reserved and not in use.")
    allocated: Amount
    waiting: int = Field(description="Tasks that wait for a place.")
    running: int = Field(description="Tasks that have one.")
    workers: list[PoolWorker]


class Allocation(Contract):
    """A task's place."""

    task_id: TaskId
    name: str = Field(description="The task's name; for people.")
    attempt: AttemptNumber
    priority: int = Field(description="Higher goes first.")
    strategy: str | None = Field(None, description="The strategy that it counts for.")
    parts: list[Part] = Field(description="What it has, and where.")
    since: Timestamp = Field(description="When it got its place.")
    ends_at: Timestamp | None = Field(None, description="When it will have ended; null when that is not known.")
    basis: str = Field(description="What its end is known by: `its limit`, `past runs`, or `unknown`.")
    preemptible: bool = Field(description="Whether a task of a higher priority may take its place.")
    gives_way_to: TaskId | None = None
    guest_of: TaskId | None = Field(
        None, description="The task that its place is kept for, and goes to in the end."
    )
    reservation_id: str | None = Field(None, description="The reservation that its place is part of.")


class AllocationPage(Contract):
    """`GET /resources/allocations`."""

    model_config = example(
        allocations=[
            {
                "task_id": "task-3f9c1a7be042",
                "name": "walmart-weekly",
                "attempt": 1,
                "priority": 0,
                "parts": [_PART],
                "since": "2025-03-03T08:16:02Z",
                "basis": "unknown",
                "preemptible": True,
            }
        ],
        total=1,
        next_cursor=None,
    )
    allocations: list[Allocation] = Field(description="By task.")
    total: int = Field(description="On all pages.")
    next_cursor: str | None = Field(None, description="`cursor` of the next page; null on the last.")


class StrategyUse(Contract):
    """What a strategy has in use."""

    strategy: str | None = Field(description="Null: tasks without one.")
    used: Amount
    gpu_memory_mb: int = Field(description="MiB of GPU memory that its runs may use.")
    workers: int = Field(description="Runs at work; each member of a gang counts.")
    share: float = Field(description="Its dominant share: the largest of GPUs, CPU cores, memory; 0 to 1.")
    recent_share: float = Field(description="Mean of that in the recent past; fades by half every hour.")
    waiting: int = Field(description="Its tasks that wait.")
    quota: Strategy | None = Field(None, description="Null: it is not declared and has none.")


class PoolUse(Contract):
    """`GET /resources/usage`."""

    model_config = example(
        allocated={"gpu": 4, "cpu": 20, "memory": 137438953472}, total=_ALL, measured={"gpu": 71.5}, strategies=[]
    )
    allocated: Amount
    total: Amount
    measured: ResourceUsage = Field(description="What workers measured last: mean of GPUs, sums of the rest.")
    strategies: list[StrategyUse] = Field(description="The one that has the least for its weight first.")


class Demand(Contract):
    """Waiting tasks of one shape."""

    gpu: int = Field(0, description="Whole GPUs that each of them asks for.")
    cpu: float = Field(0, description="CPU cores.")
    memory: int = Field(0, description="Bytes.")
    gpu_memory: int = Field(0, description="Bytes that each of its GPUs has at least.")
    count: int = Field(description="Places of that size that they want: one for each worker of each task.")
    waits_for: WaitClass | None = Field(None, description="The class of the reason; null before it is known.")
    reason: str = Field("", description="In words.")
    waited_seconds: float = Field(description="For how long the one has waited that has waited longest.")


class DemandView(Contract):
    """`GET /resources/demand`."""

    model_config = example(
        waiting=14,
        demand=[
            {
                "gpu": 4,
                "cpu": 16,
                "count": 14,
                "waits_for": "slots",
                "reason": "waiting for a free place",
                "waited_seconds": 93.5,
            }
        ],
    )
    waiting: int = Field(description="Tasks that wait for a place in all.")
    demand: list[Demand] = Field(
        description="Those that more workers could help, by shape: not who waits for the time of the next try, has"
        " places cleared, or waits for a quota, unless that is a share of all cores and too small by itself."
    )
