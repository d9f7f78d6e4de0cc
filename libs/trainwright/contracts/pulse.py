"""Pulses: superseded kinds. Only the newest counts, none is stored for long, losing one costs nothing."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import Event, Guard, Newer, Number, Timestamp
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task import TaskPhase
from trainwright.contracts.worker import AttemptRef


class WorkerHeartbeat(Event):
    """A worker lives: what it uses, what it runs, and what ended there lately."""

    noun: ClassVar[str] = "pulse"
    worker_id: str
    incarnation: str
    time: Timestamp
    usage: ResourceUsage = ResourceUsage()
    running: list[AttemptRef] = []
    ended: list[AttemptRef] = Field(default=[], description="Ended in the last ten minutes.")

    @property
    def subject(self) -> str:
        return self.worker_id


class AttemptProgressed(Event):
    """How far an attempt has come."""

    noun: ClassVar[str] = "pulse"
    task_id: str
    attempt: int
    worker_id: str
    seq: int = Field(description="Grows within the attempt, also over restarts of the agent.")
    phase: TaskPhase
    step: int = 0
    total_steps: int | None = None
    latest_metrics: dict[str, Number] = {}
    usage: ResourceUsage = ResourceUsage()
    eta_seconds: float | None = None

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
    scheduler: str
    seq: int
    time: Timestamp

    @property
    def subject(self) -> str:
        return self.scheduler
