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


class WaitClass(StrEnum):
    """Why a task waits for its place."""

    WORKER = "worker"
    SIZE = "size"
    SLOTS = "slots"
    QUOTA = "quota"
    LATER = "later"


class Member(Contract):
    """One of the workers that run an attempt together."""

    rank: int = Field(ge=0, description="Its number, from 0; rank 0 speaks for all.")
    worker_id: WorkerId
    incarnation: Incarnation
    slots: Slots = Slots()
    lost_at: Timestamp | None = Field(None, description="When its worker was given up, if it was.")


class Rendezvous(Contract):
    """Where the members of an attempt find each other: on rank 0's worker."""

    id: str = Field(description="Tells this meeting from others: `<task>.<attempt>`.")
    host: str = Field(description="Name or address of rank 0's worker.")
    port: int = Field(ge=1, le=65535, description="Port there.")


class Placement(Contract):
    """The scheduler's public document of one task; ``version`` grows with every change."""

    task_id: TaskId
    version: Version
    state: PlacementState
    attempt: int = Field(0, description="The highest attempt that got a place; 0 before the first.")
    worker_id: WorkerId | None = None
    incarnation: Incarnation | None = None
    slots: Slots = Slots()
    members: list[Member] = Field(
        default=[],
        description="All workers of an attempt on several, by rank; the fields above are rank 0's.",
    )
    rendezvous: Rendezvous | None = Field(None, description="Of an attempt on several workers.")
    reason: str = Field("", description="Why it waits, or holds no place any more; for people.")
    waits_for: WaitClass | None = Field(
        None,
        description="Of a queued one: any worker, a larger one, free slots, its quota, or its time to try again.",
    )
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
