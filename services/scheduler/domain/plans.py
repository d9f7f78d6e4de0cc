"""What a pass decides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from services.scheduler.domain.pool import Needs, Room
from services.scheduler.domain.queue import Reason, Shape
from services.scheduler.domain.state import Clearing, Hold


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a task goes: what each of its members gets on which worker."""

    task_id: str
    parts: tuple[tuple[str, Room], ...]
    reason: str = ""
    reservation: str | None = None
    by_turn: bool = False
    guest_of: str | None = None
    """The task that a part of the place is kept for: it is lent until that one can start."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of one pass."""

    seats: Sequence[Seat]
    reasons: dict[Shape, Reason]
    clearings: Sequence[Clearing] = ()
    held: Hold | None = None
    more: bool = False
    """Whether it ended before it had looked at all."""
    in_vain: Mapping[tuple[int, Needs], float] = field(default_factory=dict)
    """What nothing could be cleared for, and when that was seen."""
    put_off: Mapping[str, Clearing] = field(default_factory=dict)
    """What is going to be cleared later, by the task that waits for it."""
    kept: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The workers where a task will start once those have gone who give their places up for it, by task."""
