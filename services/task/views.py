"""What people see of a task: the document together with what its run last reported."""

from collections.abc import Sequence

from services.task.store import attempts_of, last_progress, last_progress_of
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task import Progress, TaskPhase, TaskStatus, TaskSummary, TaskView
from trainwright.storage.document import Document, Reader

BEFORE_THE_STOP = (TaskPhase.CHECKPOINTING, TaskPhase.FINISHING)


async def task_view(reader: Reader, task: Document) -> TaskView:
    """Return a task, as it is stored, as `GET /tasks/{id}` shows it."""
    task_id = str(task["task_id"])
    last = await last_progress(reader, task_id, task["attempt"])
    running = task["status"] == TaskStatus.RUNNING
    return TaskView.model_validate(
        {
            **task,
            "phase": _phase(TaskPhase(task["phase"]), last),
            "progress": _progress(last),
            "latest_metrics": last.get("latest_metrics", {}),
            "resource_usage": last.get("usage", {}) if running else ResourceUsage(),
            "eta_seconds": last.get("eta_seconds") if running else None,
            "attempts": await attempts_of(reader, task_id),
        }
    )


async def task_summaries(reader: Reader, tasks: Sequence[Document]) -> list[TaskSummary]:
    """Return tasks, as they are stored, as rows of `GET /tasks`; of a whole document a row needs little."""
    last = await last_progress_of(reader, tasks)
    return [_summary(task, last[task["task_id"]]) for task in tasks]


def _summary(task: Document, last: Document) -> TaskSummary:
    config = task["config"]
    of_config = {name: config[name] for name in ("priority", "strategy", "labels") if name in config}
    return TaskSummary.model_validate(
        {
            **task,
            **of_config,
            "recipe": config["recipe"],
            "phase": _phase(TaskPhase(task["phase"]), last),
            "progress": _progress(last),
        }
    )


def _phase(phase: TaskPhase, last: Document) -> TaskPhase:
    """Return a task's phase; of a run at work its own word, of one that stops only what it still does for it."""
    told = last.get("phase")
    if phase is TaskPhase.TRAINING and told:
        return TaskPhase(told)
    return TaskPhase(told) if phase is TaskPhase.STOPPING and told in BEFORE_THE_STOP else phase


def _progress(last: Document) -> Progress:
    step, total = last.get("step") or 0, last.get("total_steps")
    percentage = round(100 * min(step / total, 1), 2) if total else None
    return Progress(current_step=step, total_steps=total, percentage=percentage)
