"""Commands: what the scheduler asks one worker to do."""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Event,
    Guard,
    Incarnation,
    Once,
    TaskId,
    Timestamp,
    WorkerId,
)
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import ReceivedConfig, StopKind


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


class StopAttempt(Command):
    """Stop an attempt: ask it, then end it at the deadline."""

    kind: StopKind
    grace_seconds: float = Field(10, ge=0, description="Seconds to end by itself before SIGTERM.")
    reason: str = Field("", description="Why; for people.")
