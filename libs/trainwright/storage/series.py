"""The series port: what runs log by step, and which of it counts. Engines live beside it (``sqlite_series.py``,
``mongo_series.py``).

Everything is kept by attempt, numbered by a sequence that grows for each task, and fenced when it is read: whether
a point counts depends on what the store knows of later attempts, never on the order in which that was learnt.
Not here: reducing series for display, and who may see them.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from trainwright.contracts.metric import MetricPoint
from trainwright.storage.document import Transaction

NOTHING = -(2**63)
"""A bound below every step."""


@dataclass(frozen=True, slots=True)
class AttemptState:
    """What is known of an attempt.

    ``since`` is where in the sequence it was first heard of, ``resume_step`` the step that it started from
    (None until it starts), ``resumed_at`` where in the sequence that was learnt, ``last_step`` the highest step
    that it has logged, ``late`` how many of its points came in after a later attempt was known.
    """

    attempt: int
    since: int
    resume_step: int | None = None
    resumed_at: int | None = None
    last_step: int | None = None
    late: int = 0


@dataclass(frozen=True, slots=True)
class Logged:
    """One call of ``run.log``, as stored."""

    seq: int
    attempt: int
    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Tail:
    """What follows a cursor, in order, where to go on, and the attempts as the same read saw them."""

    records: list[Logged]
    cursor: int
    attempts: list[AttemptState]
    more: bool
    """Whether the cursor stands before the sequence's end."""


@dataclass(frozen=True, slots=True)
class Fence:
    """Which of an attempt's points count: ``step`` and ``seq`` are the highest that do (None: no bound)."""

    step: int | None = None
    seq: int | None = None


class Series(Protocol):
    """Values by step, attempt and name. Writes happen inside a transaction of the store that they share.

    Raises ``StoreUnavailable`` like the document port.
    """

    async def append(self, tx: Transaction, task_id: str, attempt: int, points: Sequence[MetricPoint]) -> int:
        """Keep points whose number is above the attempt's last one; return how many were new."""

    async def note_attempt(
        self, tx: Transaction, task_id: str, attempt: int, resume_step: int | None = None
    ) -> None:
        """Remember that an attempt exists, and the step that it started from once that is known."""

    async def known(self, task_id: str) -> bool:
        """Return whether anything is known of a task."""

    async def names(self, task_id: str) -> list[str]:
        """Return the names that any attempt of a task has logged, sorted."""

    async def latest(self, task_id: str) -> dict[str, float]:
        """Return the newest value that counts, by name."""

    async def points(
        self, task_id: str, name: str, start_step: int | None = None, end_step: int | None = None
    ) -> list[tuple[int, float]]:
        """Return (step, value) of what counts, by step; both bounds belong to the range."""

    async def after(
        self, task_id: str, cursor: int, names: Collection[str] | None = None, limit: int = 500
    ) -> Tail:
        """Return at most ``limit`` records that count and stand after a cursor; all names when none are given."""

    async def head(self, task_id: str) -> int:
        """Return the last number of the sequence that a task's records stand in."""

    async def skip(self, task_id: str, newest: int) -> int:
        """Return the cursor after which about ``newest`` records of a task follow."""


def fence_of(attempt: int, first_steps: Mapping[int, int], attempts: Iterable[AttemptState]) -> Fence:
    """Return what counts of one attempt's series, given every attempt of the task.

    A later attempt that resumed from step ``s`` makes what lies above ``s`` not count; one that began anew
    (``s`` = 0) all of it. What it logged itself replaces the same steps, so a loop that counts from 0 and repeats
    step ``s`` has it once: ``first_steps`` holds the lowest step of this series by attempt. While the newest
    attempt has not started, what older ones still send does not count.
    """
    later = sorted((a for a in attempts if a.attempt > attempt), key=lambda a: a.attempt)
    bounds = [a.resume_step or NOTHING for a in later if a.resume_step is not None]
    bounds += [first - 1 for number, first in first_steps.items() if number > attempt]
    waiting = bool(later) and later[-1].resume_step is None
    return Fence(step=min(bounds, default=None), seq=later[-1].since if waiting else None)
