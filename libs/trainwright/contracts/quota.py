"""What operators decide about resources: quotas, reservations, workers that are left out; and the events of it."""

from typing import Annotated, ClassVar

from pydantic import Field, field_validator, model_validator

from trainwright.contracts.base import (
    Contract,
    Event,
    Guard,
    Name,
    Newer,
    Request,
    TaskId,
    Timestamp,
    Version,
    WorkerId,
    example,
)
from trainwright.contracts.resource import Bytes, Slots
from trainwright.contracts.task_config import Seconds

_QUOTA = {"cpu_percent": 50, "gpu_memory_mb": 8192, "max_workers": 4, "weight": 1}
_STRATEGY = {
    "strategy": "vision",
    "version": 1,
    **_QUOTA,
    "actor": "admin",
    "updated_at": "2025-03-03T08:00:00Z",
}
_RESERVATION = {
    "reservation_id": "reservation-5c0f1e7a9b31",
    "version": 1,
    "worker_id": "worker-7d20c4e91b55",
    "slots": {"gpus": [0, 1], "cpu": 8, "memory": 0},
    "strategy": "vision",
    "until": "2025-03-03T18:00:00Z",
    "actor": "admin",
    "created_at": "2025-03-03T08:00:00Z",
}


class SetQuota(Request):
    """`PUT /resources/quotas/{strategy}`: declares a strategy; what is left out has its default."""

    model_config = example(**_QUOTA)
    cpu_percent: float = Field(50, gt=0, le=100, description="Percent of the CPU cores of all workers.")
    gpu_memory_mb: int = Field(
        8192, ge=0, le=2**43, description="MiB of GPU memory; whole GPUs count with all of theirs."
    )
    max_workers: int = Field(
        4, ge=1, le=100_000, description="Runs at work at a time; each member of a gang counts."
    )
    weight: float = Field(1, gt=0, le=1000, allow_inf_nan=False, description="Its weight in the fair share.")
    reclaim: bool = Field(
        False, description="Runs that are over it save a checkpoint and wait; else they keep their places."
    )


class Strategy(Contract):
    """A declared strategy: the tenant of a quota."""

    model_config = example(**_STRATEGY)
    strategy: Annotated[Name, Field(description="Its name, as tasks give it.")]
    version: Version
    cpu_percent: float = Field(description="Percent of the CPU cores of all workers.")
    gpu_memory_mb: int = Field(description="MiB of GPU memory; whole GPUs count with all of theirs.")
    max_workers: int = Field(description="Runs at work at a time; each member of a gang counts.")
    weight: float = Field(1, description="Its weight in the fair share.")
    removed: bool = Field(False, description="It is not declared any more: it has no quota.")
    actor: str = Field(description="Who changed it last.")
    updated_at: Timestamp = Field(description="When this version was made.")


class QuotaList(Contract):
    """`GET /resources/quotas`."""

    model_config = example(quotas=[_STRATEGY])
    quotas: list[Strategy] = Field(description="By name.")


class Reserve(Request):
    """`POST /resources/reservations`: keep a part of a worker for a strategy or for one task."""

    model_config = example(gpu=2, cpu=8, strategy="vision", duration=36000)
    gpu: int = Field(0, ge=0, le=1024, description="Whole GPUs.")
    cpu: float = Field(0, ge=0, le=4096, description="CPU cores.")
    memory: Bytes = 0
    gpu_memory: Bytes = 0
    worker_id: str | None = Field(None, max_length=100, description="On this worker; else where it fits best.")
    strategy: Name | None = Field(None, description="For tasks of this strategy.")
    task_id: Name | None = Field(None, description="For this task only.")
    until: Timestamp | None = Field(None, description="It ends by itself then.")
    duration: Seconds | None = Field(None, description="Or after so long: `10h`.")
    idle_after: Seconds | None = Field(
        None, description="It ends before that when nothing of it was in use for so long: `30m`."
    )

    @field_validator("duration", "idle_after")
    @classmethod
    def _is_some_time(cls, seconds: float | None) -> float | None:
        if seconds is not None and seconds <= 0:
            raise ValueError("say how long, such as '30m'")
        return seconds

    @model_validator(mode="after")
    def _one_of_each(self) -> "Reserve":
        if (self.strategy is None) == (self.task_id is None):
            raise ValueError("say for whom it is kept: strategy, or task_id")
        if (self.until is None) == (self.duration is None):
            raise ValueError("say how long it is kept: until, or duration such as '2h'")
        if not (self.gpu or self.cpu or self.memory):
            raise ValueError("say what is kept: gpu, cpu or memory")
        return self


class ReservationDocument(Contract):
    """A part of a worker that is kept until a moment."""

    model_config = example(**_RESERVATION)
    reservation_id: str = Field(description="`reservation-` and 12 hex digits.")
    version: Version
    worker_id: WorkerId
    slots: Slots
    strategy: Name | None = Field(None, description="For tasks of this strategy.")
    task_id: TaskId | None = None
    until: Timestamp = Field(description="It ends by itself then.")
    idle_after: float | None = Field(None, description="It ends when it was not in use for so many seconds.")
    ended: bool = Field(False, description="It was ended before its time, by `actor`.")
    actor: str = Field(description="Who changed it last.")
    created_at: Timestamp = Field(description="When it was made.")


class ReservationList(Contract):
    """`GET /resources/reservations`."""

    model_config = example(reservations=[_RESERVATION])
    reservations: list[ReservationDocument] = Field(description="Those that stand, the first to end first.")


class Drain(Request):
    """`POST /workers/{id}/drain`."""

    model_config = example(reason="new driver")
    reason: str = Field("drained by hand", min_length=1, max_length=200, description="Why; for people.")


class CordonDocument(Contract):
    """Whether a worker is left out: it takes nothing new, what runs there goes on."""

    model_config = example(
        worker_id="worker-7d20c4e91b55", version=1, cordoned=True, reason="new driver", actor="admin"
    )
    worker_id: WorkerId
    version: Version
    cordoned: bool = Field(description="Whether it is left out.")
    reason: str = Field("", description="Why; for people.")
    actor: str = Field(
        description="Who decided it; `scheduler` when runs failed there for the worker's own fault."
    )
    until: Timestamp | None = Field(None, description="It is taken in again by itself then.")
    at: Timestamp | None = Field(None, description="When it was decided.")


class StrategyChanged(Event):
    """A strategy's quota was set or removed."""

    noun: ClassVar[str] = "resource"
    strategy: Strategy

    @property
    def subject(self) -> str:
        return self.strategy.strategy

    @property
    def guard(self) -> Guard:
        return Newer(self.subject, (0, self.strategy.version))

    @property
    def aggregate_version(self) -> int:
        return self.strategy.version


class ReservationChanged(Event):
    """A part of a worker was reserved, or is not any more."""

    noun: ClassVar[str] = "resource"
    reservation: ReservationDocument

    @property
    def subject(self) -> str:
        return self.reservation.reservation_id

    @property
    def guard(self) -> Guard:
        return Newer(self.subject, (0, self.reservation.version))

    @property
    def aggregate_version(self) -> int:
        return self.reservation.version


class WorkerCordoned(Event):
    """A worker is left out from now on, or is taken in again."""

    noun: ClassVar[str] = "resource"
    cordon: CordonDocument

    @property
    def subject(self) -> str:
        return self.cordon.worker_id

    @property
    def guard(self) -> Guard:
        return Newer(self.subject, (0, self.cordon.version))

    @property
    def aggregate_version(self) -> int:
        return self.cordon.version
