"""What people see of a task: the document together with what its run last reported."""

from collections.abc import Sequence
from typing import Any

from services.task.store import attempts_of, last_progress, last_progress_of
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task import Progress, TaskDocument, TaskPhase, TaskStatus, TaskSummary, TaskView
from trainwright.storage.document import Reader

BEFORE_THE_STOP = (TaskPhase.CHECKPOINTING, TaskPhase.FINISHING)


async def task_view(reader: Reader, task: TaskDocument) -> TaskView:
    """Return a task as `GET /tasks/{id}` shows it."""
    last = await last_progress(reader, task)
    running = task.status is TaskStatus.RUNNING
    return TaskView.model_validate(
        {
            **task.model_dump(),
            "phase": _phase(task, last),
            "progress": _progress(last),
            "latest_metrics": last.get("latest_metrics", {}),
            "resource_usage": last.get("usage", {}) if running else ResourceUsage(),
            "eta_seconds": last.get("eta_seconds") if running else None,
            "attempts": await attempts_of(reader, task.task_id),
        }
    )


async def task_summaries(reader: Reader, tasks: Sequence[TaskDocument]) -> list[TaskSummary]:
    """Return tasks as rows of `GET /tasks`."""
    last = await last_progress_of(reader, tasks)
    return [_summary(task, last[task.task_id]) for task in tasks]


def _summary(task: TaskDocument, last: dict[str, Any]) -> TaskSummary:
    return TaskSummary(
        task_id=task.task_id,
        name=task.name,
        recipe=task.config.recipe,
        status=task.status,
        phase=_phase(task, last),
        reason=task.reason,
        priority=task.config.priority,
        strategy=task.config.strategy,
        labels=task.config.labels,
        attempt=task.attempt,
        progress=_progress(last),
        created_at=task.created_at,
        updated_at=task.updated_at,
        archived_at=task.archived_at,
    )


def _phase(task: TaskDocument, last: dict[str, Any]) -> TaskPhase:
    """Return the task's phase; of a run at work its own word, of one that stops only what it still does for it."""
    told = last.get("phase")
    if task.phase is TaskPhase.TRAINING and told:
        return TaskPhase(told)
    return TaskPhase(told) if task.phase is TaskPhase.STOPPING and told in BEFORE_THE_STOP else task.phase


def _progress(last: dict[str, Any]) -> Progress:
    step, total = last.get("step") or 0, last.get("total_steps")
    percentage = round(100 * min(step / total, 1), 2) if total else None
    return Progress(current_step=step, total_steps=total, percentage=percentage)
