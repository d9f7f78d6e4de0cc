"""Tasks: the document that people submit, the document that the task service owns, and its events."""

from enum import StrEnum
from typing import ClassVar, Literal

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    Guard,
    JsonObject,
    LatestMetrics,
    Newer,
    Sha256,
    TaskId,
    Timestamp,
    TotalSteps,
    Version,
    WorkerId,
    example,
)
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.parameters import ChangedValue, ParameterChange
from trainwright.contracts.queue import Member
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task_config import ReceivedConfig

_ID, _MORNING, _LATER = "task-3f9c1a7be042", "2025-03-03T08:15:30.120000Z", "2025-03-03T08:16:02.500000Z"


class TaskStatus(StrEnum):
    """Where a task stands in its life."""

    PENDING = "pending"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class TaskPhase(StrEnum):
    """Why a task stands where it stands."""

    NOT_STARTED = "not_started"
    WAITING_DEPENDENCIES = "waiting_dependencies"
    WAITING_SLOTS = "waiting_slots"
    WAITING_QUOTA = "waiting_quota"
    BACKING_OFF = "backing_off"
    STARTING = "starting"
    TRAINING = "training"
    CHECKPOINTING = "checkpointing"
    FINISHING = "finishing"
    STOPPING = "stopping"
    HELD = "held"
    ENDED = "ended"


FINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class StopKind(StrEnum):
    """Why a run is asked to stop."""

    PAUSE = "pause"
    CANCEL = "cancel"
    PREEMPT = "preempt"


class Progress(Contract):
    """How far the newest attempt has come, as the trainer itself reported it."""

    current_step: int = Field(0, description="The last step that was logged.")
    total_steps: TotalSteps = None
    percentage: float | None = Field(None, description="0 to 100; null without `total_steps`.")


class Repair(Contract):
    """What was done about a failed attempt, and why."""

    attempt: AttemptNumber
    failure_class: FailureClass
    action: str = Field(description="In words, such as `halve the micro-batch`.")
    changes: dict[str, ChangedValue] = Field(default={}, description="Parameters by name.")
    resume_step: int | None = Field(None, description="The step that the next attempt is to go on from.")
    reason: str = Field("", description="Why; for people.")
    at: Timestamp = Field(description="When it was decided.")


class TaskDocument(Contract):
    """The task service's public document; ``version`` grows by one with every change."""

    task_id: TaskId
    version: Version
    name: str = Field(description="For people; need not be unique.")
    config: ReceivedConfig
    config_id: str | None = Field(None, description="The stored configuration that it was made from.")
    config_version: int | None = Field(None, description="The version of that.")
    rerun_of: str | None = Field(None, description="The task that this one repeats.")
    depends_on: list[TaskId] = Field(default=[], description="Tasks that must complete before it runs.")
    on_dependency_failure: Literal["fail", "run"] = Field(
        "fail", description="When one of them fails or is cancelled: so does this task, or it runs all the same."
    )
    status: TaskStatus
    phase: TaskPhase
    reason: str = Field("", description="Why it stands where it stands; for people.")
    stop: StopKind | None = Field(None, description="What the run has been asked to do.")
    attempt: int = Field(0, description="The highest attempt known; 0 before the first placement.")
    worker_id: WorkerId | None = None
    members: list[Member] = Field(
        default=[], description="Of an attempt on several workers all of them, by rank; `worker_id` is rank 0's."
    )
    retries_used: int = Field(0, description="Attempts charged to `config.max_retries`.")
    losses: int = Field(0, description="Restarts after losses of infrastructure; not charged as retries.")
    overrides: JsonObject = Field(default={}, description="Parameters that repairs and people have changed.")
    repairs: list[Repair] = Field(default=[], description="What was repaired, oldest first.")
    parameter_revision: int = Field(0, description="Counts the changes of its parameters while it exists.")
    parameter_changes: list[ParameterChange] = Field(
        default=[], description="Those that the next attempt must know: what holds from which step, oldest first."
    )
    checkpoints: list[Checkpoint] = Field(default=[], description="What it can go on from, newest first.")
    avoid_workers: list[WorkerId] = Field(default=[], description="Workers that it failed on for their own fault.")
    ran_seconds: float = Field(0, description="Time that ended attempts have trained.")
    not_before: Timestamp | None = Field(None, description="Earliest time of the next attempt.")
    failure: Failure | None = Field(None, description="Why the last failed attempt did; null when completed.")
    created_at: Timestamp = Field(description="When it was accepted.")
    updated_at: Timestamp = Field(description="When this version was made.")
    started_at: Timestamp | None = Field(None, description="When its first run started.")
    paused_at: Timestamp | None = Field(None, description="When it was last paused.")
    resumed_at: Timestamp | None = Field(None, description="When it was last asked to go on.")
    ended_at: Timestamp | None = Field(None, description="When it became completed, failed or cancelled.")
    archived_at: Timestamp | None = Field(None, description="Since when lists leave it out.")


class TaskEvent(Event):
    """Any change of a task, with the whole document after it."""

    noun: ClassVar[str] = "task"
    task: TaskDocument

    @property
    def subject(self) -> str:
        return self.task.task_id

    @property
    def guard(self) -> Guard:
        return Newer(self.task.task_id, (0, self.task.version))

    @property
    def aggregate_version(self) -> int:
        return self.task.version

    @property
    def attempt_number(self) -> int | None:
        return self.task.attempt or None


class TaskCreated(TaskEvent):
    """A task was accepted."""


class TaskReady(TaskEvent):
    """A task was asked to run and nothing but resources is missing."""


class TaskStopRequested(TaskEvent):
    """A task's run was asked to stop."""


class TaskRetryScheduled(TaskEvent):
    """A task's attempt is over and another one will follow."""


class TaskStatusChanged(TaskEvent):
    """A task's status or phase changed, and no other event says it."""


class TaskReprioritised(TaskEvent):
    """A task's priority, name, labels or dependencies were changed."""


class TaskParametersChanged(TaskEvent):
    """Parameters of a task were changed while it exists; a run of it takes them over at its next step."""


class TaskResourcesChanged(TaskEvent):
    """What a task asks for was changed while it waits or is paused; its next attempt gets that."""


class TaskArchived(TaskEvent):
    """A task that is over was put aside: lists leave it out, it stays readable."""


class TaskCreatedAnswer(Contract):
    """The answer to `POST /tasks`."""

    model_config = example(task_id=_ID, status="pending", created_at=_MORNING)
    task_id: TaskId
    status: TaskStatus
    created_at: Timestamp = Field(description="When it was accepted.")


class TransitionAnswer(Contract):
    """The answer to `POST /tasks/{id}/start|pause|resume|cancel|archive`: the true state at once."""

    model_config = example(task_id=_ID, status="pending", phase="waiting_slots", reason="waits for a free slot")
    task_id: TaskId
    status: TaskStatus
    phase: TaskPhase
    reason: str = Field(description="Why it stands where it stands; for people.")
    started_at: Timestamp | None = Field(None, description="When its first run started.")
    paused_at: Timestamp | None = Field(None, description="When it was last paused.")
    resumed_at: Timestamp | None = Field(None, description="When it was last asked to go on.")
    cancelled_at: Timestamp | None = Field(None, description="When it became cancelled.")
    archived_at: Timestamp | None = Field(None, description="Since when lists leave it out.")


class HistoryEntry(Contract):
    """One transition of a task: what it became, when, by whom, and why."""

    version: int = Field(description="Version of the task that this made.")
    time: Timestamp = Field(description="When.")
    actor: str = Field(description="Who: the name of an API key, or a service.")
    cause: str = Field(description="What happened, e.g. `created`, or a failure's class.")
    status: TaskStatus
    phase: TaskPhase
    reason: str = Field("", description="Why; for people.")
    attempt: int = Field(0, description="The highest attempt known then; 0 before the first placement.")
    changes: dict[str, ChangedValue] = Field(default={}, description="Parameters that a repair changed then.")


class MemberSummary(Contract):
    """One of the workers that run an attempt together, in short."""

    rank: int = Field(ge=0, description="Its number, from 0; rank 0 speaks for all.")
    worker_id: WorkerId
    state: str = Field(
        description="`starting`, `running`, how its process ended, or `lost`: over without a word of it."
    )
    failure_class: str | None = Field(None, description="Why it failed, if it did.")
    message: str | None = Field(None, description="Why, in a sentence.")


class AttemptSummary(Contract):
    """One attempt of a task, in short."""

    attempt: AttemptNumber
    worker_id: WorkerId | None = None
    started_at: Timestamp | None = Field(None, description="When its process was started.")
    ended_at: Timestamp | None = Field(None, description="When its process ended.")
    outcome: str | None = Field(None, description="How it ended; null while it runs.")
    failure_class: str | None = Field(None, description="Why it failed, if it did.")
    message: str | None = Field(None, description="Why, in a sentence.")
    resume_step: int | None = Field(None, description="The step that it went on from; 0 from the beginning.")
    final_step: int | None = Field(None, description="The last step that it logged.")
    members: list[MemberSummary] = Field(
        default=[], description="Of an attempt on several workers all of them, by rank."
    )


class AttemptList(Contract):
    """`GET /tasks/{id}/attempts`."""

    model_config = example(
        task_id=_ID, attempts=[{"attempt": 1, "worker_id": "worker-7d20c4e91b55", "outcome": "completed"}]
    )
    task_id: TaskId
    attempts: list[AttemptSummary] = Field(description="Oldest first.")


class TaskView(TaskDocument):
    """`GET /tasks/{id}`: the document with what the run last reported."""

    model_config = example(
        task_id=_ID,
        version=4,
        name="walmart-weekly",
        config={"recipe": "forecast", "parameters": {"model": "tcn"}},
        status="running",
        phase="training",
        attempt=1,
        worker_id="worker-7d20c4e91b55",
        created_at=_MORNING,
        updated_at=_LATER,
        started_at=_LATER,
        progress={"current_step": 120, "total_steps": 300, "percentage": 40.0},
        latest_metrics={"loss": 0.0731},
        eta_seconds=42.5,
    )
    progress: Progress = Progress()
    latest_metrics: LatestMetrics = {}
    resource_usage: ResourceUsage = ResourceUsage()
    eta_seconds: float | None = Field(None, description="Time left by the run's own pace.")
    attempts: list[AttemptSummary] = Field(default=[], description="Every attempt, oldest first.")


class TaskSummary(Contract):
    """A row of `GET /tasks`."""

    task_id: TaskId
    name: str = Field(description="For people; need not be unique.")
    recipe: str = Field(description="Key of its recipe.")
    status: TaskStatus
    phase: TaskPhase
    reason: str = Field(description="Why it stands where it stands; for people.")
    priority: int = Field(description="Higher goes first.")
    strategy: str | None = Field(None, description="The tenant that it counts for.")
    labels: dict[str, str] = Field(default={}, description="Names and values to find tasks by.")
    attempt: int = Field(description="The highest attempt known; 0 before the first placement.")
    progress: Progress = Progress()
    created_at: Timestamp = Field(description="When it was accepted.")
    updated_at: Timestamp = Field(description="When its newest version was made.")
    archived_at: Timestamp | None = Field(None, description="Since when lists leave it out.")


class TaskPage(Contract):
    """`GET /tasks`."""

    model_config = example(
        tasks=[
            {
                "task_id": _ID,
                "name": "walmart-weekly",
                "recipe": "forecast",
                "status": "running",
                "phase": "training",
                "reason": "",
                "priority": 0,
                "attempt": 1,
                "progress": {"current_step": 120, "total_steps": 300, "percentage": 40.0},
                "created_at": _MORNING,
                "updated_at": _LATER,
            }
        ],
        total=1,
        next_cursor=None,
    )
    tasks: list[TaskSummary]
    total: int = Field(description="Tasks that fit the question, on all pages.")
    next_cursor: str | None = Field(None, description="`cursor` of the next page; null on the last.")


class History(Contract):
    """`GET /tasks/{id}/history`."""

    model_config = example(
        task_id=_ID,
        entries=[
            {
                "version": 1,
                "time": _MORNING,
                "actor": "admin",
                "cause": "created",
                "status": "pending",
                "phase": "not_started",
            }
        ],
    )
    task_id: TaskId
    entries: list[HistoryEntry] = Field(description="Oldest first.")


class StoredFile(Contract):
    """The answer to `POST /files`."""

    model_config = example(sha256="8b1a9953c4611296a827abf8c47804d7e6c49c6b97a5f2d1c2bb0a9a3f6d1e20", size=48211)
    sha256: Sha256
    size: int = Field(description="Bytes.")
