"""Workers: what they are and when they come and go."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    Guard,
    Incarnation,
    Newer,
    TaskId,
    Timestamp,
    Version,
    WorkerId,
    example,
)
from trainwright.contracts.resource import Gpu, ResourceUsage, Slots

_WORKER = {
    "worker_id": "worker-7d20c4e91b55",
    "hostname": "gpu-node-4",
    "state": "alive",
    "cpus": 16,
    "memory": 68719476736,
    "gpus": [{"index": 0, "model": "NVIDIA L4", "memory": 24152899584}],
    "free": {"gpus": [0], "cpu": 15, "memory": 66571993088},
    "attempts": [{"task_id": "task-3f9c1a7be042", "attempt": 1}],
    "usage": {"cpu": 142.0, "memory": 1610612736},
    "heartbeat_age_seconds": 0.8,
    "registered_at": "2025-03-03T07:58:11.000001Z",
}


class AttemptRef(Contract):
    """An attempt, named."""

    task_id: TaskId
    attempt: AttemptNumber


class WorkerDocument(Contract):
    """A worker's public document; ``incarnation`` is new at each start of its agent, ``version`` grows."""

    worker_id: WorkerId
    incarnation: Incarnation
    version: Version
    hostname: str = Field(description="Name of its machine.")
    cpus: float = Field(description="CPU cores offered.")
    memory: int = Field(description="Bytes offered.")
    gpus: list[Gpu] = Field(default=[], description="GPUs offered.")
    labels: dict[str, str] = Field(default={}, description="What its operator says of it.")
    draining: bool = Field(False, description="It takes no more attempts.")
    stopped: bool = Field(False, description="Its agent has left.")
    returns_within: float | None = Field(
        None, description="Its agent restarts: seconds for which its attempts, which go on, are left alone."
    )
    adopted: list[AttemptRef] = Field(
        default=[],
        description="Attempts of an earlier incarnation that this one found again and goes on with.",
    )
    address: str = Field("", description="Name or address by which other workers reach it; its hostname if empty.")
    ports: list[int] = Field(
        default=[],
        description="First and last port on which members of a gang may meet there; 29400, 29499 if empty.",
    )
    registered_at: Timestamp = Field(description="When this incarnation started.")


class WorkerEvent(Event):
    """Any change of a worker, with the whole document after it."""

    noun: ClassVar[str] = "worker"
    worker: WorkerDocument

    @property
    def subject(self) -> str:
        return self.worker.worker_id

    @property
    def guard(self) -> Guard:
        return Newer(self.worker.worker_id, (0, self.worker.version))

    @property
    def aggregate_version(self) -> int:
        return self.worker.version


class WorkerRegistered(WorkerEvent):
    """An agent started: attempts of its earlier incarnations that it does not list as adopted are over."""


class WorkerDraining(WorkerEvent):
    """An agent takes no more attempts, or leaves them running and comes back."""


class WorkerStopped(WorkerEvent):
    """An agent ended its attempts and left."""


class WorkerView(Contract):
    """A row of `GET /workers`."""

    model_config = example(**_WORKER)

    worker_id: WorkerId
    hostname: str = Field(description="Name of its machine.")
    state: str = Field(description="`alive`, `draining`, `stopped` or `lost`.")
    reason: str = Field("", description="Why it takes nothing new, if that was decided for it.")
    cpus: float = Field(description="CPU cores offered.")
    memory: int = Field(description="Bytes offered.")
    gpus: list[Gpu] = Field(description="GPUs offered.")
    labels: dict[str, str] = Field(default={}, description="What its operator says of it.")
    free: Slots
    attempts: list[AttemptRef] = Field(description="Attempts that have a place there.")
    usage: ResourceUsage
    heartbeat_age_seconds: float | None = Field(description="Since its last heartbeat; null before the first.")
    registered_at: Timestamp = Field(description="When this incarnation started.")


class WorkerList(Contract):
    """`GET /workers`."""

    model_config = example(workers=[_WORKER])
    workers: list[WorkerView]
