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
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.failure import Failure
from trainwright.contracts.parameters import ParameterAnswer


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    PAUSED = "paused"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"


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
    given_back: str | None = Field(
        None, description="Why its worker had it save and pause, though nobody asked: it did nothing."
    )
    bundle: Sha256 | None = Field(None, description="Manifest of what the run left, as a blob.")
    checkpoints: list[Checkpoint] = Field(
        default=[], description="Those of this attempt that are stored and worth keeping, newest first."
    )
    parameters: list[ParameterAnswer] = Field(
        default=[], description="What the run did about changes of its parameters, by revision."
    )


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


class CheckpointSaved(AttemptEvent):
    """A checkpoint of the run is stored and verified; `checkpoints` has it."""


class ParametersApplied(AttemptEvent):
    """The run has taken over changed parameters; `parameters` says from which step they hold."""


class ParametersRejected(AttemptEvent):
    """The run has refused changed parameters and goes on as before; `parameters` says why."""


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
