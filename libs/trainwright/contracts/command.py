"""Commands: what the scheduler asks one worker to do."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.attempt import Outcome
from trainwright.contracts.base import (
    AttemptNumber,
    Event,
    Guard,
    Incarnation,
    JsonObject,
    Once,
    TaskId,
    Timestamp,
    WorkerId,
)
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.failure import Failure
from trainwright.contracts.parameters import ParameterChange
from trainwright.contracts.queue import Member, Rendezvous
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import Repair, StopKind
from trainwright.contracts.task_config import ReceivedConfig

GIVEN_UP = 2**40
"""Revision of a stop of a run that was given up: above every wish, which is the version of a task."""


class Command(Event):
    """A wish addressed to one incarnation of one worker."""

    noun: ClassVar[str] = "command"
    worker_id: WorkerId
    incarnation: Incarnation
    task_id: TaskId
    attempt: AttemptNumber = Field(ge=1)
    revision: int = Field(1, ge=1, description="Grows when the same wish is changed.")
    not_after: Timestamp | None = Field(None, description="A command read later than this is refused.")

    @property
    def subject(self) -> str:
        return self.worker_id

    @property
    def guard(self) -> Guard:
        return Once(f"{self.task_id}/{self.attempt}/{type(self).__name__}/{self.revision}")

    @property
    def attempt_number(self) -> int:
        return self.attempt


class RunAttempt(Command):
    """Run an attempt on the slots named."""

    name: str = Field(description="The task's name.")
    config: ReceivedConfig
    slots: Slots
    overrides: JsonObject = Field(default={}, description="Parameters that repairs and people have changed.")
    parameter_changes: list[ParameterChange] = Field(
        default=[], description="Which of them were changed while a run trained, and from which step they hold."
    )
    repairs: list[Repair] = Field(default=[], description="What was repaired before this attempt, oldest first.")
    resume_from: list[Checkpoint] = Field(
        default=[], description="Where to go on from: the first of these that is whole, newest first."
    )
    timeout_seconds: float | None = Field(None, description="Seconds that the run may still train.")
    rank: int = Field(0, ge=0, description="Which of the members this worker is.")
    members: list[Member] = Field(default=[], description="Of an attempt on several workers all of them, by rank.")
    rendezvous: Rendezvous | None = Field(None, description="Of an attempt on several workers.")


class StopAttempt(Command):
    """Stop an attempt: ask it, then end it at the deadline."""

    kind: StopKind
    grace_seconds: float = Field(10, ge=0, description="Seconds to end by itself before SIGTERM.")
    reason: str = Field("", description="Why; for people.")


class UpdateParameters(Command):
    """Hand changed parameters to an attempt; its run takes them over at its next step."""

    changes: list[ParameterChange] = Field(description="Those that no run has answered yet, oldest first.")


class ConcludeAttempt(Command):
    """Every member of an attempt on several workers is over: rank 0's worker tells its end, which is this."""

    outcome: Outcome
    failure: Failure | None = Field(None, description="Why it failed, if it did: of the member that did first.")
