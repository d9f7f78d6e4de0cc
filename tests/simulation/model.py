"""What a task's life, a placement's and a worker's attempts may be: the promises, in as few words as they have.

The model knows nothing of how the services keep them, and shares no table with them. Whoever breaks it is told in
one line of text each. Used by the checker of the simulation and by the state machines beside it.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from trainwright.contracts.queue import Placement, PlacementState
from trainwright.contracts.task import TaskDocument, TaskPhase, TaskStatus

PENDING, RUNNING, PAUSED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.PAUSED
COMPLETED, FAILED, CANCELLED = TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED
OVER = {COMPLETED, FAILED, CANCELLED}

MAY_BECOME: Mapping[TaskStatus, set[TaskStatus]] = {
    PENDING: {RUNNING, PAUSED, *OVER},
    RUNNING: {PENDING, PAUSED, *OVER},
    PAUSED: {PENDING, *OVER},  # over: a run that was on its way when it was paused has ended
}
"""What may follow a status; each may also stay. What is over becomes nothing any more."""


def life_of_task(versions: Iterable[TaskDocument]) -> Iterator[str]:
    """Return what is wrong with a task's versions, given in their order; some may be missing."""
    before: TaskDocument | None = None
    for task in versions:
        yield from _stands(task)
        if before is not None:
            yield from _follows(before, task)
        before = task


def _stands(task: TaskDocument) -> Iterator[str]:
    """One document by itself makes sense."""
    name = f"{task.task_id} version {task.version}"
    if (task.status in OVER) != (task.phase is TaskPhase.ENDED):
        yield f"task: {name} is {task.status} in phase {task.phase}"
    if (task.status is PAUSED) != (task.phase is TaskPhase.HELD):
        yield f"task: {name} is {task.status} in phase {task.phase}"
    if task.status in (RUNNING, COMPLETED) and task.attempt < 1:
        yield f"task: {name} is {task.status} without an attempt"
    if task.status in {*OVER, PAUSED} and task.stop is not None:
        yield f"task: {name} is {task.status} and still to stop"
    if task.retries_used > task.config.max_retries:
        yield f"task: {name} was charged {task.retries_used} retries of {task.config.max_retries}"


def _follows(before: TaskDocument, task: TaskDocument) -> Iterator[str]:
    """A document may follow an earlier one."""
    name, next_to = f"{task.task_id} version {task.version}", task.version == before.version + 1
    if task.attempt < before.attempt:
        yield f"task: {name} went back from attempt {before.attempt} to {task.attempt}"
    if before.status in OVER and (task.status, task.attempt) != (before.status, before.attempt):
        yield f"task: {name} is {task.status}, and was {before.status}, which is for ever"
    elif next_to and task.status is not before.status and task.status not in MAY_BECOME[before.status]:
        yield f"task: {name} is {task.status}, which does not follow {before.status}"
    if next_to and task.retries_used > before.retries_used + 1:
        yield f"task: {name} was charged more than one retry at once"
    if task.retries_used < before.retries_used or task.losses < before.losses:
        yield f"task: {name} was paid retries back"
    if task.ran_seconds < before.ran_seconds and next_to and before.status is not PAUSED:
        yield f"task: {name} has run for less time than before"


def life_of_placement(versions: Iterable[Placement]) -> Iterator[str]:
    """Return what is wrong with a placement's versions, given in their order; some may be missing."""
    before: Placement | None = None
    for one in versions:
        if one.state is PlacementState.ASSIGNED and (one.worker_id is None or one.attempt < 1):
            yield f"placement: {one.task_id} has a place without a worker or a number"
        if before is not None:
            yield from _place_follows(before, one)
        before = one


def _place_follows(before: Placement, one: Placement) -> Iterator[str]:
    name = f"{one.task_id} version {one.version}"
    assigned, was = one.state is PlacementState.ASSIGNED, before.state is PlacementState.ASSIGNED
    if one.attempt < before.attempt:
        yield f"placement: {name} went back from attempt {before.attempt} to {one.attempt}"
    if one.version != before.version + 1:
        return
    if assigned and was and (one.attempt, one.worker_id) != (before.attempt, before.worker_id):
        yield f"placement: {name} moved while it had its place"
    if assigned and not was and one.attempt == before.attempt:
        yield f"placement: {name} was given attempt {one.attempt} a second time"
    if not assigned and one.attempt != before.attempt:
        yield f"placement: {name} has another number and no place"


def room_is_kept(held: Mapping[str, float], room: Mapping[str, float]) -> Iterator[str]:
    """Return the workers that were given more than they have."""
    for name, cpus in held.items():
        if cpus > room[name] + 1e-6:
            yield f"overcommit: {cpus:g} CPUs of {name} are taken; it has {room[name]:g}"


WEIGHT = {"preempt": 1, "pause": 2, "cancel": 3, "fenced": 4}
"""Of two wishes to stop a run the weightier one holds, of equals the newer one."""


@dataclass(slots=True)
class WorkerModel:
    """What one worker has to have kept of the commands that it was handed."""

    incarnation: str = ""
    live: dict[tuple[str, int], tuple[str, int] | None] = field(default_factory=dict)
    """Attempts that are not over here, and how each was asked to stop: kind and revision."""
    highest: dict[str, int] = field(default_factory=dict)
    heard: set[tuple[Any, ...]] = field(default_factory=set)

    def told_to_run(self, task_id: str, attempt: int, incarnation: str) -> None:
        """Take an attempt if it is for this incarnation and the newest of its task; older ones are fenced."""
        if not self._is_news(task_id, attempt, "run", 1):
            return
        if incarnation != self.incarnation or attempt <= self.highest.get(task_id, 0):
            return
        for other in [key for key in self.live if key[0] == task_id]:
            self.live[other] = weightier(self.live[other], ("fenced", 1))
        self.live[task_id, attempt] = None
        self.highest[task_id] = attempt

    def told_to_stop(self, task_id: str, attempt: int, kind: str, revision: int) -> None:
        """Keep the wish to stop an attempt that is here, whichever incarnation it was meant for."""
        if self._is_news(task_id, attempt, "stop", revision) and (task_id, attempt) in self.live:
            self.live[task_id, attempt] = weightier(self.live[task_id, attempt], (kind, revision))

    def is_over(self, task_id: str, attempt: int) -> None:
        """Forget an attempt, but not its number."""
        self.live.pop((task_id, attempt), None)

    def unfenced(self, task_id: str) -> list[int]:
        """Return the attempts of a task that may go on; there is never more than one."""
        return [
            key[1]
            for key, stop in self.live.items()
            if key[0] == task_id and (stop is None or stop[0] != "fenced")
        ]

    def _is_news(self, *command: Any) -> bool:
        before = len(self.heard)
        self.heard.add(command)
        return len(self.heard) > before


def weightier(mine: tuple[str, int] | None, other: tuple[str, int]) -> tuple[str, int]:
    """Return which of two wishes to stop holds."""
    if mine is None or (WEIGHT[other[0]], other[1]) > (WEIGHT[mine[0]], mine[1]):
        return other
    return mine
