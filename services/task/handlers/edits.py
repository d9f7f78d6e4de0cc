"""What people change of tasks that exist: priority, name, labels, dependencies; and putting them aside."""

from collections.abc import Sequence
from typing import Any

from services.task import domain
from services.task.handlers.quotas import check_quota
from services.task.handlers.saving import save
from services.task.store import DEPENDENCIES, TASKS, find_task, get_task, set_dependencies
from trainwright.contracts.base import Event, nearest
from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.contracts.task import FINAL, TaskDocument, TaskStatus
from trainwright.contracts.task_config import ChangeTask, SetResources
from trainwright.runtime.clock import Clock
from trainwright.storage.document import Transaction
from trainwright.storage.meeting import meet

REACHED = 100_000
"""Tasks that are looked at for a circle."""


async def change_task(
    task_id: str, wish: ChangeTask, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Change what is named of a task.

    Raises:
        InvalidInput: It would depend on a task that there is not, on itself, or in a circle.
        Conflict: It is too late for that.
    """
    task, now = await get_task(tx, task_id), clock.now()
    news: dict[str, Any] = wish.model_dump(exclude_none=True)
    if "depends_on" in news:
        news["depends_on"] = list(dict.fromkeys(news["depends_on"]))
    change = domain.changed(task, now, **news)
    if change is None:
        return task, []
    unmet: list[str] = []
    if change.task.depends_on != task.depends_on:
        unmet = await unmet_of(change.task.depends_on, task_id, task.on_dependency_failure, tx)
        await set_dependencies(tx, task_id, unmet)
    events = await save(change, tx, actor)
    if change.task.depends_on == task.depends_on:
        return change.task, events
    waits = domain.dependencies_met(change.task, unmet, now)
    return (waits.task if waits else change.task), [*events, *await save(waits, tx, actor)]


async def set_resources(
    task_id: str, wish: SetResources, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Change what a task asks for, while it waits or is paused.

    Raises:
        Conflict: It runs, or is over.
        ResourceLimitError: Its strategy's quota could never admit it any more.
    """
    task = await get_task(tx, task_id)
    news = wish.model_dump(exclude_none=True, exclude={"reason"})
    change = domain.resized(task, clock.now(), news, wish.reason)
    if change is not None:
        await check_quota(change.task.config, tx)
    return (change.task if change else task), await save(change, tx, actor)


async def archive_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Put a task aside that is over."""
    task = await get_task(tx, task_id)
    change = domain.archived(task, clock.now())
    return (change.task if change else task), await save(change, tx, actor)


async def unmet_of(depends_on: Sequence[str], task_id: str | None, on_failure: str, tx: Transaction) -> list[str]:
    """Return those of a task's dependencies that are not done yet.

    Raises:
        InvalidInput: One does not exist, can never complete, or leads back to the task.
    """
    problems: list[FieldError] = []
    unmet: list[str] = []
    for number, other in enumerate(depends_on):
        where = f"depends_on.{number}"
        found = await find_task(tx, other)
        if other == task_id:
            problems.append(FieldError(path=where, message=f"task {other} cannot wait for itself"))
        elif found is None:
            message = f"there is no task {other[:80]!r}{await _like(other, tx)}"
            problems.append(FieldError(path=where, message=message))
        elif found.status not in FINAL:
            unmet.append(other)
        elif found.status is not TaskStatus.COMPLETED and on_failure == "fail":
            message = f"task {other} {_was(found)}, so a task that depends on it would never run"
            problems.append(FieldError(path=where, message=message))
    if not problems and task_id is not None:
        problems += await _circle(task_id, depends_on, tx)
    if problems:
        raise InvalidInput("; ".join(f"{one.path}: {one.message}" for one in problems[:3]), problems)
    return list(dict.fromkeys(unmet))


async def _circle(task_id: str, depends_on: Sequence[str], tx: Transaction) -> list[FieldError]:
    await meet(tx, DEPENDENCIES.name)  # and every other change, which may close the circle at its far side
    known: dict[str, Sequence[str]] = {}
    waiting = list(depends_on)
    while waiting and len(known) < REACHED:
        other = waiting.pop()
        if other not in known:
            found = await find_task(tx, other)
            known[other] = found.depends_on if found is not None else ()
            waiting += known[other]
    circle = domain.cycle(task_id, depends_on, known)
    if circle is None:
        return []
    return [FieldError(path="depends_on", message=f"they would wait for each other: {' → '.join(circle)}")]


async def _like(task_id: str, tx: Transaction) -> str:
    page = await tx.find(TASKS.name, sort="-created_at", limit=200)
    return nearest(task_id, [str(item["task_id"]) for item in page.items])


def _was(task: TaskDocument) -> str:
    return "failed" if task.status is TaskStatus.FAILED else "was cancelled"
