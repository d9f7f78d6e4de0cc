"""Placements: the scheduler's document of where a task waits or runs."""

from enum import StrEnum
from typing import ClassVar

from pydantic import Field

from trainwright.contracts.base import (
    Contract,
    Event,
    Guard,
    Incarnation,
    Newer,
    TaskId,
    Timestamp,
    Version,
    WorkerId,
)
from trainwright.contracts.resource import Slots


class PlacementState(StrEnum):
    """Where a task stands with the scheduler."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RELEASED = "released"


class Placement(Contract):
    """The scheduler's public document of one task; ``version`` grows with every change."""

    task_id: TaskId
    version: Version
    state: PlacementState
    attempt: int = Field(0, description="The highest attempt that got a place; 0 before the first.")
    worker_id: WorkerId | None = None
    incarnation: Incarnation | None = None
    slots: Slots = Slots()
    reason: str = Field("", description="Why it waits, or holds no place any more; for people.")
    updated_at: Timestamp = Field(description="When this version was made.")


class PlacementEvent(Event):
    """Any change of a placement, with the whole document after it."""

    noun: ClassVar[str] = "queue"
    placement: Placement

    @property
    def subject(self) -> str:
        return self.placement.task_id

    @property
    def guard(self) -> Guard:
        return Newer(self.placement.task_id, (0, self.placement.version))

    @property
    def aggregate_version(self) -> int:
        return self.placement.version

    @property
    def attempt_number(self) -> int | None:
        return self.placement.attempt or None


class TaskQueued(PlacementEvent):
    """A task waits for a place, for the reason given."""


class PlacementAssigned(PlacementEvent):
    """A task got a place and an attempt number."""


class PlacementReleased(PlacementEvent):
    """A task holds no place any more."""


class WorkerLost(PlacementEvent):
    """The worker of a placement is gone, or does not know the attempt: the attempt is fenced."""
