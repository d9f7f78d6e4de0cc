"""Placements: the scheduler's document of where a task waits or runs."""

from enum import StrEnum
from typing import ClassVar

from trainwright.contracts.base import Contract, Event, Guard, Newer, Timestamp
from trainwright.contracts.resource import Slots


class PlacementState(StrEnum):
    """Where a task stands with the scheduler."""

    QUEUED = "queued"
    ASSIGNED = "assigned"
    RELEASED = "released"


class Placement(Contract):
    """The scheduler's public document of one task; ``version`` grows with every change."""

    task_id: str
    version: int
    state: PlacementState
    attempt: int = 0
    worker_id: str | None = None
    incarnation: str | None = None
    slots: Slots = Slots()
    reason: str = ""
    updated_at: Timestamp


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
