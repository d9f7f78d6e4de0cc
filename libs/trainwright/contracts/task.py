"""Tasks: the document that people submit, the document that the task service owns, and its events."""

from enum import StrEnum
from functools import partial
from typing import Annotated, ClassVar

from pydantic import AfterValidator, BeforeValidator, Field

from trainwright.contracts.attempt import Failure
from trainwright.contracts.base import (
    LARGEST,
    AttemptNumber,
    Contract,
    Event,
    Guard,
    JsonObject,
    LatestMetrics,
    Name,
    Newer,
    Request,
    Sha256,
    TaskId,
    Timestamp,
    TotalSteps,
    Version,
    WorkerId,
    example,
    known_only,
)
from trainwright.contracts.resource import ResourceRequirements, ResourceUsage

_ID, _MORNING, _LATER = "task-3f9c1a7be042", "2025-03-03T08:15:30.120000Z", "2025-03-03T08:16:02.500000Z"

Labels = Annotated[
    dict[Name, Annotated[str, Field(max_length=200)]],
    Field(max_length=64, description="Names and values to find tasks by."),
]


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
    WAITING_SLOTS = "waiting_slots"
    BACKING_OFF = "backing_off"
    STARTING = "starting"
    TRAINING = "training"
    FINISHING = "finishing"
    STOPPING = "stopping"
    ENDED = "ended"


FINAL = frozenset({TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class StopKind(StrEnum):
    """Why a run is asked to stop."""

    CANCEL = "cancel"
    PREEMPT = "preempt"


def _inside(path: str) -> str:
    parts = path.split("/")
    if {"", ".", ".."} & set(parts) or "\\" in path or any(ord(character) < 32 for character in path):
        raise ValueError(f"{path[:80]!r} is not a relative path inside the run's folder, such as 'data/sales.csv'")
    return path


RelativePath = Annotated[
    str,
    Field(min_length=1, max_length=500, description="Relative path inside the run's folder, `/` between parts."),
    AfterValidator(_inside),
]


class FileRef(Request):
    """A file of a task: where it lies in the run's folder, and the content uploaded to ``/files``."""

    path: RelativePath
    sha256: Sha256
    size: int = Field(ge=0, le=LARGEST, description="Bytes.")


class TaskConfig(Request):
    """A task document, as people write it in YAML or JSON."""

    model_config = example(
        name="walmart-weekly",
        recipe="forecast",
        parameters={"model": "tcn", "mode": "store", "horizon": 8, "max_steps": 300, "seed": 1},
        data={"path": "examples/data/walmart_sales_weekly.csv", "time": "Date", "target": "Weekly_Sales"},
        resource_requirements={"gpu": 0, "cpu": 1, "memory": 2 * 2**30},
    )
    name: Name | None = Field(None, description="A name for people; the recipe's name when left out.")
    recipe: Name = Field(description="Key of a recipe: `forecast`, `script`, or one that is installed.")
    parameters: JsonObject = Field(default={}, description="The recipe's parameters.")
    data: JsonObject | None = Field(None, description="The data set: a path and what its columns mean.")
    files: list[FileRef] = Field(default=[], max_length=5000, description="Uploaded files, by content hash.")
    resource_requirements: ResourceRequirements = ResourceRequirements()
    priority: int = Field(0, ge=-1000, le=1000, description="Higher goes first.")
    strategy: Name | None = Field(None, description="The tenant that the task counts for.")
    labels: Labels = {}
    max_retries: int = Field(0, ge=0, le=100, description="Attempts after the first one's own failure.")


ReceivedConfig = Annotated[TaskConfig, BeforeValidator(partial(known_only, TaskConfig))]
"""A task document inside an event: it was accepted when it was sent, perhaps by a later version than this."""


class Progress(Contract):
    """How far the newest attempt has come, as the trainer itself reported it."""

    current_step: int = Field(0, description="The last step that was logged.")
    total_steps: TotalSteps = None
    percentage: float | None = Field(None, description="0 to 100; null without `total_steps`.")


class TaskDocument(Contract):
    """The task service's public document; ``version`` grows by one with every change."""

    task_id: TaskId
    version: Version
    name: str = Field(description="For people; need not be unique.")
    config: ReceivedConfig
    status: TaskStatus
    phase: TaskPhase
    reason: str = Field("", description="Why it stands where it stands; for people.")
    stop: StopKind | None = Field(None, description="What the run has been asked to do.")
    attempt: int = Field(0, description="The highest attempt known; 0 before the first placement.")
    worker_id: WorkerId | None = None
    retries_used: int = Field(0, description="Attempts charged to `config.max_retries`.")
    losses: int = Field(0, description="Restarts after losses of infrastructure; not charged as retries.")
    not_before: Timestamp | None = Field(None, description="Earliest time of the next attempt.")
    failure: Failure | None = Field(None, description="Why the last failed attempt did; null when completed.")
    created_at: Timestamp = Field(description="When it was accepted.")
    updated_at: Timestamp = Field(description="When this version was made.")
    started_at: Timestamp | None = Field(None, description="When its first run started.")
    ended_at: Timestamp | None = Field(None, description="When it became completed, failed or cancelled.")


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


class CreateTask(Request):
    """`POST /tasks`: a document, and what overrides it."""

    config: TaskConfig
    name: Name | None = None
    priority: int | None = Field(None, ge=-1000, le=1000)
    resource_requirements: ResourceRequirements | None = None
    strategy: Name | None = None
    labels: Labels | None = None
    max_retries: int | None = Field(None, ge=0, le=100)
    start: bool = Field(False, description="Ask it to run at once.")


class TaskCreatedAnswer(Contract):
    """The answer to `POST /tasks`."""

    model_config = example(task_id=_ID, status="pending", created_at=_MORNING)
    task_id: TaskId
    status: TaskStatus
    created_at: Timestamp = Field(description="When it was accepted.")


class TransitionAnswer(Contract):
    """The answer to `POST /tasks/{id}/start|cancel`: the true state at once."""

    model_config = example(task_id=_ID, status="pending", phase="waiting_slots", reason="waits for a free slot")
    task_id: TaskId
    status: TaskStatus
    phase: TaskPhase
    reason: str = Field(description="Why it stands where it stands; for people.")
    started_at: Timestamp | None = Field(None, description="When its first run started.")
    cancelled_at: Timestamp | None = Field(None, description="When it became cancelled.")


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


class AttemptSummary(Contract):
    """One attempt of a task, in short."""

    attempt: AttemptNumber
    worker_id: WorkerId | None = None
    started_at: Timestamp | None = Field(None, description="When its process was started.")
    ended_at: Timestamp | None = Field(None, description="When its process ended.")
    outcome: str | None = Field(None, description="How it ended; null while it runs.")
    failure_class: str | None = Field(None, description="Why it failed, if it did.")


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
    attempt: int = Field(description="The highest attempt known; 0 before the first placement.")
    progress: Progress = Progress()
    created_at: Timestamp = Field(description="When it was accepted.")
    updated_at: Timestamp = Field(description="When its newest version was made.")


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
