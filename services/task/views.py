"""What people see of a task: the document together with what its run last reported."""

from typing import Any

from services.task.store import PROGRESS, attempts_of
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task import Progress, TaskDocument, TaskPhase, TaskStatus, TaskSummary, TaskView
from trainwright.storage.document import Reader


async def task_view(reader: Reader, task: TaskDocument) -> TaskView:
    """Return a task as `GET /tasks/{id}` shows it."""
    last = await _last(reader, task)
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


async def task_summary(reader: Reader, task: TaskDocument) -> TaskSummary:
    """Return a task as a row of `GET /tasks`."""
    last = await _last(reader, task)
    return TaskSummary(
        task_id=task.task_id,
        name=task.name,
        recipe=task.config.recipe,
        status=task.status,
        phase=_phase(task, last),
        reason=task.reason,
        priority=task.config.priority,
        attempt=task.attempt,
        progress=_progress(last),
        created_at=task.created_at,
        updated_at=task.updated_at,
    )


async def _last(reader: Reader, task: TaskDocument) -> dict[str, Any]:
    """Return what the task's newest attempt last reported; what an older one said is not shown."""
    last = await reader.get(PROGRESS.name, task.task_id)
    return last if last is not None and last["attempt"] == task.attempt else {}


def _phase(task: TaskDocument, last: dict[str, Any]) -> TaskPhase:
    told_by_run = task.phase is TaskPhase.TRAINING and last.get("phase")
    return TaskPhase(last["phase"]) if told_by_run else task.phase


def _progress(last: dict[str, Any]) -> Progress:
    step, total = last.get("step") or 0, last.get("total_steps")
    percentage = round(100 * min(step / total, 1), 2) if total else None
    return Progress(current_step=step, total_steps=total, percentage=percentage)
