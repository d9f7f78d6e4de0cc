"""What a step of a task is: its next document, the event that says so, and why. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.parameters import ChangedValue
from trainwright.contracts.task import TaskDocument, TaskEvent, TaskStatus

TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset(
        {TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.PAUSED, TaskStatus.FAILED, TaskStatus.CANCELLED}
        | {TaskStatus.COMPLETED}  # a run whose start was reported after its end
    ),
    TaskStatus.RUNNING: frozenset(
        {TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.PAUSED, TaskStatus.COMPLETED}
        | {TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.PAUSED: frozenset(
        {TaskStatus.PAUSED, TaskStatus.PENDING, TaskStatus.CANCELLED}
        | {TaskStatus.COMPLETED, TaskStatus.FAILED}  # a run whose placement was reported after the pause
    ),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Change:
    """A task's next document, the event that says so, and why; a change without a cause is no transition."""

    task: TaskDocument
    event: type[TaskEvent]
    cause: str
    changes: Mapping[str, ChangedValue] = field(default_factory=dict)


def move(task: TaskDocument, now: datetime, **fields: Any) -> TaskDocument:
    """Return a task's next version.

    Raises:
        IllegalTransition: Its status cannot become that.
    """
    status = fields.get("status", task.status)
    if status not in TRANSITIONS[task.status]:
        raise IllegalTransition(f"task {task.task_id} cannot go from {task.status} to {status}")
    return note(task, now, **fields)


def note(task: TaskDocument, now: datetime, **fields: Any) -> TaskDocument:
    """Return the next version of a task that stays where it stands; one that is over may be noted on too."""
    return task.model_copy(update={**fields, "version": task.version + 1, "updated_at": now})
