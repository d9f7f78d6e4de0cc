"""Attempts: one try at a task on one worker, as its worker tells it."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    Guard,
    Incarnation,
    JsonObject,
    LatestMetrics,
    Newer,
    Sha256,
    TaskId,
    Timestamp,
    TotalSteps,
    Version,
    WorkerId,
)


class FailureClass(StrEnum):
    """Why an attempt failed; each class has its own repair."""

    OUT_OF_MEMORY = "out_of_memory"
    DIVERGED = "diverged"
    HUNG = "hung"
    TIMED_OUT = "timed_out"
    WORKER_LOST = "worker_lost"
    PREEMPTED = "preempted"
    NODE_BAD = "node_bad"
    DATA_ERROR = "data_error"
    USER_ERROR = "user_error"
    ENVIRONMENT_ERROR = "environment_error"
    UNKNOWN = "unknown"


INFRASTRUCTURE = frozenset({FailureClass.WORKER_LOST, FailureClass.PREEMPTED, FailureClass.NODE_BAD})
"""Losses that are nobody's fault: restarted without back-off and without charge."""


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


class Failure(Contract):
    """What is known about a failure: its class, and the evidence."""

    failure_class: FailureClass
    message: str = Field(description="What happened, in one sentence.")
    exception: str | None = Field(None, description="Type of the exception.")
    traceback: str | None = Field(None, description="The traceback as Python wrote it, perhaps shortened.")
    file: str | None = Field(None, description="Where in the user's own code it happened.")
    line: int | None = Field(None, description="Line in `file`, from 1.")
    hint: str | None = Field(None, description="What to do next.")
    exit_code: int | None = Field(None, description="Exit code of the run's process.")
    signal: str | None = Field(None, description="Signal that ended the run's process, e.g. `SIGKILL`.")


class AttemptDocument(Contract):
    """A worker's public document of one attempt; ``version`` grows within the attempt."""

    task_id: TaskId
    attempt: AttemptNumber = Field(ge=1)
    version: Version = Field(ge=1)
    worker_id: WorkerId
    incarnation: Incarnation
    started_at: Timestamp | None = Field(None, description="When the run's process was started.")
    ended_at: Timestamp | None = Field(None, description="When the run's process ended.")
    resume_step: int = Field(0, description="The step that this attempt started from.")
    final_step: int | None = Field(None, description="The last step that was logged.")
    total_steps: TotalSteps = None
    latest_metrics: LatestMetrics = {}
    outcome: Outcome | None = Field(None, description="How it ended; null while it runs.")
    failure: Failure | None = Field(None, description="Why it failed, if it did.")
    bundle: Sha256 | None = Field(None, description="Manifest of what the run left, as a blob.")


class AttemptEvent(Event):
    """Any change of an attempt, with the whole document after it."""

    noun: ClassVar[str] = "attempt"
    attempt: AttemptDocument

    @property
    def subject(self) -> str:
        return self.attempt.task_id

    @property
    def guard(self) -> Guard:
        return Newer(self.attempt.task_id, (self.attempt.attempt, self.attempt.version))

    @property
    def aggregate_version(self) -> int:
        return self.attempt.version

    @property
    def attempt_number(self) -> int:
        return self.attempt.attempt


class AttemptStarted(AttemptEvent):
    """The run's process was started."""


class AttemptEnded(AttemptEvent):
    """The run is over and all it had to say has been published."""


class BundleFile(Contract):
    """One file of a bundle."""

    sha256: Sha256
    size: int = Field(description="Bytes.")


class BundleManifest(Contract):
    """What a run left behind: its files by name, and its metadata."""

    files: dict[str, BundleFile] = Field(description="Files by their name in the run's output.")
    metadata: JsonObject = Field(default={}, description="What the recipe says of the result.")
