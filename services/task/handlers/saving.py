"""Save a change of a task, and what follows from it for the tasks that wait for it."""

from services.task import domain
from services.task.store import (
    dependants_of,
    find_task,
    forget_dependency,
    save_task,
    unmet_dependencies,
)
from trainwright.contracts.base import Event
from trainwright.contracts.task import FINAL, TaskDocument, TaskStatus
from trainwright.storage.document import Transaction
from trainwright.storage.meeting import meet

TASK = "task"


async def save(change: domain.Change | None, tx: Transaction, actor: str) -> list[Event]:
    """Save a change, if there is one, and return the events that follow."""
    if change is None:
        return []
    await save_task(tx, change.task, actor=actor, cause=change.cause, changes=change.changes)
    events: list[Event] = [change.event(task=change.task)]
    if change.task.status in FINAL:
        events += await _followers(change.task, tx)
    return events


async def _followers(over: TaskDocument, tx: Transaction) -> list[Event]:
    """Let those run that waited for a task alone, or end them with it, and those that wait for them in turn."""
    events: list[Event] = []
    waiting: list[tuple[TaskDocument, str | None]] = [(over, None)]
    while waiting:
        done, through = waiting.pop()
        await meet(tx, done.task_id)
        for task_id in await dependants_of(tx, done.task_id):
            task = await find_task(tx, task_id)
            if task is None or task.status in FINAL:
                await forget_dependency(tx, task_id, done.task_id)
                continue
            await meet(tx, task_id)
            await forget_dependency(tx, task_id, done.task_id)
            if done.status is TaskStatus.COMPLETED or task.on_dependency_failure == "run":
                left = await unmet_dependencies(tx, task_id)
                change = domain.dependencies_met(task, left, over.updated_at)
            else:
                change = domain.dependency_over(task, over, through, over.updated_at)
            if change is None:
                continue
            await save_task(tx, change.task, actor=TASK, cause=change.cause, changes=change.changes)
            events.append(change.event(task=change.task))
            if change.task.status in FINAL:
                waiting.append((change.task, task_id))
    return events
