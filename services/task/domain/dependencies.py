"""Tasks that wait for others: what follows when those are over, and circles. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from services.task.domain.changes import Change, move
from trainwright.contracts.task import (
    FINAL,
    TaskDocument,
    TaskPhase,
    TaskReady,
    TaskStatus,
    TaskStatusChanged,
)

NAMED = 3
WHY_SHOWN = 300
BEFORE_A_RUN = frozenset({TaskPhase.NOT_STARTED, TaskPhase.WAITING_DEPENDENCIES, TaskPhase.HELD})
"""Phases in which a task that never had a run may stand."""


def waits_for(others: Sequence[str]) -> str:
    """Return what a task waits for, in words."""
    more = f" and {len(others) - NAMED} more" if len(others) > NAMED else ""
    return f"waiting for {', '.join(others[:NAMED])}{more} to complete"


def has_not_run(task: TaskDocument) -> bool:
    """Return whether a task still stands before its first run, so that what it depends on may matter."""
    return task.status not in FINAL and task.attempt == 0 and task.phase in BEFORE_A_RUN


def dependencies_met(task: TaskDocument, left: Sequence[str], now: datetime) -> Change | None:
    """Note that one more of the tasks that a task depends on is done; ``left`` are those it still waits for."""
    if task.phase is not TaskPhase.WAITING_DEPENDENCIES:
        return None
    if left:
        return Change(move(task, now, reason=waits_for(left)), TaskStatusChanged, "")
    ready = move(task, now, phase=TaskPhase.WAITING_SLOTS, reason="waiting for the scheduler")
    return Change(ready, TaskReady, "dependencies completed")


def dependency_over(
    task: TaskDocument, culprit: TaskDocument, through: str | None, now: datetime
) -> Change | None:
    """End a task that can never run, because ``culprit`` failed or was cancelled.

    Args:
        task: The task.
        culprit: Where it began.
        through: The task in between that it depends on itself, if there is one.
        now: The time.
    """
    if not has_not_run(task):
        return None
    failed = culprit.status is TaskStatus.FAILED
    verb = "failed" if failed else "was cancelled"
    who = f"{culprit.task_id} ({culprit.name})"
    said = (
        f"{who} {verb}, which it depends on through {through}"
        if through
        else f"{who}, which it depends on, {verb}"
    )
    why = culprit.reason.partition("\n")[0][:WHY_SHOWN]
    over = move(
        task,
        now,
        status=TaskStatus.FAILED if failed else TaskStatus.CANCELLED,
        phase=TaskPhase.ENDED,
        ended_at=now,
        stop=None,
        reason=f"{said}: {why}" if failed and why else said,
    )
    return Change(over, TaskStatusChanged, "dependency failed" if failed else "dependency cancelled")


def cycle(task_id: str, depends_on: Iterable[str], known: Mapping[str, Sequence[str]]) -> list[str] | None:
    """Return the circle that a task would close by depending on others, as task ids from it back to it, or None.

    Args:
        task_id: The task.
        depends_on: What it is to depend on.
        known: What every task that can be reached from there depends on.
    """
    came_from: dict[str, str] = {}
    waiting = []
    for first in depends_on:
        if first not in came_from:
            came_from[first] = task_id
            waiting.append(first)
    while waiting:
        here = waiting.pop()
        if here == task_id:
            path = [here]
            while (before := came_from[path[-1]]) != task_id:
                path.append(before)
            return [task_id, *reversed(path)]
        for further in known.get(here, ()):
            if further not in came_from:
                came_from[further] = here
                waiting.append(further)
    return None
