"""Gangs: attempts that several workers run together, one process each, as torchrun's nodes do.

Rank 0 speaks for all: its worker's events are the attempt's. Of the others only the end is told.
"""

from typing import ClassVar

from pydantic import Field

from trainwright.contracts.attempt import Outcome
from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    Event,
    Guard,
    Incarnation,
    Once,
    TaskId,
    Timestamp,
    WorkerId,
)
from trainwright.contracts.failure import Failure


class MemberEnding(Contract):
    """How one member's process ended, as its worker tells it."""

    task_id: TaskId
    attempt: AttemptNumber = Field(ge=1)
    rank: int = Field(ge=0, description="Its number among the members, from 0.")
    worker_id: WorkerId
    incarnation: Incarnation
    started_at: Timestamp | None = Field(None, description="When its process was started.")
    ended_at: Timestamp | None = Field(None, description="When its process ended.")
    outcome: Outcome = Field(description="How it ended, seen by itself; the attempt's own outcome is said later.")
    failure: Failure | None = Field(None, description="Why it failed, if it did.")
    peer_lost: bool = Field(False, description="Whether it failed because another member was gone.")


class MemberEnded(Event):
    """One of several workers has ended its part of an attempt; when all have, rank 0's says AttemptEnded."""

    noun: ClassVar[str] = "attempt"
    member: MemberEnding

    @property
    def subject(self) -> str:
        return self.member.task_id

    @property
    def guard(self) -> Guard:
        return Once(f"{self.member.task_id}/{self.member.attempt}/MemberEnded/{self.member.rank}")

    @property
    def attempt_number(self) -> int:
        return self.member.attempt
