"""Why a task waits, and what would happen to one that is not submitted: the scheduler's answers to people."""

from pydantic import Field

from trainwright.contracts.base import Contract, Name, Request, TaskId, Timestamp, WorkerId, example
from trainwright.contracts.queue import WaitClass
from trainwright.contracts.resource import ResourceRequirements, Slots
from trainwright.contracts.task_config import SomeTime

_ESTIMATE = {"starts_at": "2025-03-03T09:02:00Z", "basis": "its limit", "certain": False}
_BLOCKER = {"kind": "task", "id": "task-91c0d2b7aa10", "name": "nightly", "reason": "has 4 GPU of gpu-node-4"}


class Blocker(Contract):
    """One thing that a task waits for."""

    kind: str = Field(description="`task`, `quota`, `reservation` or `worker`.")
    id: str = Field(description="Its name: of a task, a strategy, a reservation, a worker.")
    name: str = Field("", description="A task's name for people.")
    reason: str = Field(description="What it has that the task waits for; for people.")


class Estimate(Contract):
    """When a task will start, and how that is known."""

    starts_at: Timestamp | None = Field(None, description="Null: nothing that is known ends in time.")
    basis: str = Field(description="What it was reckoned from, in words.")
    certain: bool = Field(
        False, description="Whether places are kept for it: unless one of a higher priority comes, not later."
    )


class Why(Contract):
    """`GET /tasks/{id}/why`: computed when asked."""

    model_config = example(
        task_id="task-3f9c1a7be042",
        waits=True,
        waits_for="slots",
        reason="waiting for a free place",
        position=2,
        waiting=14,
        blocked_by=[_BLOCKER],
        unblocked_by=["task-91c0d2b7aa10 ends"],
        estimate=_ESTIMATE,
    )
    task_id: TaskId
    waits: bool = Field(description="Whether it waits for a place; else `reason` says where it stands.")
    waits_for: WaitClass | None = Field(None, description="The class of the reason.")
    reason: str = Field(description="In words.")
    position: int | None = Field(None, description="Its place in the order, from 1; a smaller one may go first.")
    waiting: int = Field(0, description="Tasks that wait for a place in all.")
    priority: int = Field(0, description="Its priority.")
    strategy: str | None = Field(None, description="The strategy that it counts for.")
    blocked_by: list[Blocker] = Field(default=[], description="What it waits for, by name.")
    unblocked_by: list[str] = Field(default=[], description="What would let it start, each by itself; in words.")
    estimate: Estimate | None = None


class Simulate(Request):
    """`POST /resources/simulate`: a submission that is not made."""

    model_config = example(resource_requirements={"gpu": 4, "cpu": 16}, priority=5, timeout=7200)
    resource_requirements: ResourceRequirements = ResourceRequirements()
    priority: int = Field(0, ge=-1000, le=1000, description="Higher goes first.")
    strategy: Name | None = Field(None, description="The strategy that it would count for.")
    timeout: SomeTime | None = Field(None, description="Time that it may train: `2h`.")


class Part(Contract):
    """What one member of a task gets, and where."""

    worker_id: WorkerId
    slots: Slots


class Simulated(Contract):
    """What would happen to a submission now."""

    model_config = example(
        starts_now=True,
        parts=[{"worker_id": "worker-7d20c4e91b55", "slots": {"gpus": [0, 1, 2, 3], "cpu": 16, "memory": 0}}],
        preempts=[],
        why=None,
    )
    starts_now: bool = Field(description="Whether it would get its place at once.")
    parts: list[Part] = Field(default=[], description="Where, if it would.")
    preempts: list[TaskId] = Field(default=[], description="Runs that would have to give their places up for it.")
    why: Why | None = Field(None, description="Why it would wait, if it would.")
