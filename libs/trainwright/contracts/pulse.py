"""Pulses: superseded kinds. Only the newest counts, none is stored for long, losing one costs nothing."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Event,
    Guard,
    Incarnation,
    LatestMetrics,
    Newer,
    TaskId,
    Timestamp,
    TotalSteps,
    WorkerId,
)
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task import TaskPhase
from trainwright.contracts.worker import AttemptRef


class WorkerHeartbeat(Event):
    """A worker lives: what it uses, what it runs, and what ended there lately."""

    noun: ClassVar[str] = "pulse"
    worker_id: WorkerId
    incarnation: Incarnation
    time: Timestamp = Field(description="When it was measured.")
    usage: ResourceUsage = ResourceUsage()
    running: list[AttemptRef] = Field(default=[], description="Attempts that run there.")
    ended: list[AttemptRef] = Field(default=[], description="Ended in the last ten minutes.")
    heeding: list[TaskId] = Field(
        default=[],
        description="Tasks whose run asks if it should stop, and saves then.",
    )

    @property
    def subject(self) -> str:
        return self.worker_id


class AttemptProgressed(Event):
    """How far an attempt has come."""

    noun: ClassVar[str] = "pulse"
    task_id: TaskId
    attempt: AttemptNumber
    worker_id: WorkerId
    seq: int = Field(description="Grows within the attempt, also over restarts of the agent.")
    phase: TaskPhase
    step: int = Field(0, description="The last step that was logged.")
    total_steps: TotalSteps = None
    latest_metrics: LatestMetrics = {}
    usage: ResourceUsage = ResourceUsage()
    eta_seconds: float | None = Field(None, description="Time left by the run's own pace.")
    asks_stop: bool = Field(False, description="Whether the run has asked so far if it should stop.")

    @property
    def subject(self) -> str:
        return self.worker_id

    @property
    def guard(self) -> Guard:
        return Newer(self.task_id, (self.attempt, self.seq))

    @property
    def attempt_number(self) -> int:
        return self.attempt


class SchedulerProbed(Event):
    """The scheduler's probe of its own path through Kafka: it trusts leases only while this comes back."""

    noun: ClassVar[str] = "pulse"
    scheduler: str = Field(description="One life of the scheduler: `scheduler-` and 12 hex digits.")
    seq: int = Field(description="Grows with every probe.")
    time: Timestamp = Field(description="When it was sent.")

    @property
    def subject(self) -> str:
        return self.scheduler
