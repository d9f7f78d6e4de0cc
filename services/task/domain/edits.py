"""What people may change of a task that exists, and putting it aside. Pure."""

from datetime import datetime
from typing import Any

from services.task.domain.changes import Change, note
from services.task.domain.dependencies import has_not_run
from services.task.domain.tasks import LIVE
from trainwright.contracts.errors import Conflict, IllegalTransition
from trainwright.contracts.resource import ResourceRequirements
from trainwright.contracts.task import (
    FINAL,
    TaskArchived,
    TaskDocument,
    TaskPhase,
    TaskReprioritised,
    TaskResourcesChanged,
)


def changed(task: TaskDocument, now: datetime, **news: Any) -> Change | None:
    """Change a task's priority, name, labels or dependencies; None when nothing is different.

    Raises:
        Conflict: A task that is over has no priority any more; one that has run depends on nothing any more.
    """
    fields: dict[str, Any] = {}
    config = {name: news[name] for name in ("priority", "name", "labels") if name in news}
    if any(getattr(task.config, name) != value for name, value in config.items()):
        fields["config"] = task.config.model_copy(update=config)
    if "priority" in news and news["priority"] != task.config.priority and task.status in FINAL:
        raise Conflict(f"task {task.task_id} is {task.status}: its place in the queue does not matter any more")
    if news.get("name", task.name) != task.name:
        fields["name"] = news["name"]
    if "depends_on" in news and news["depends_on"] != task.depends_on:
        if not has_not_run(task):
            raise Conflict(f"task {task.task_id} has been asked to run and waits for no other task any more")
        fields["depends_on"] = news["depends_on"]
    if not fields:
        return None
    said = [f"{name} {value}" for name, value in news.items() if name in ("priority", "name")]
    said += [name for name in ("labels", "depends_on") if name in news]
    return Change(note(task, now, **fields), TaskReprioritised, f"changed: {', '.join(said)}")


def resized(task: TaskDocument, now: datetime, news: dict[str, Any], reason: str) -> Change | None:
    """Change what a task asks for; None when nothing is different.

    Raises:
        Conflict: It is over, or has its place: what runs keeps what it has.
    """
    known = task.config.resource_requirements
    wanted = known.model_copy(update=news)
    if wanted == known:
        return None
    if task.status in FINAL:
        raise Conflict(f"task {task.task_id} is {task.status}: run it again with other resources by a rerun")
    has_place = task.phase in LIVE or (task.phase is TaskPhase.HELD and task.worker_id is not None)
    if has_place:
        raise Conflict(
            f"task {task.task_id} is {task.status} ({task.phase}) and keeps what it has; pause it, change its "
            "resources, and resume it: it goes on from its checkpoint with the new ones"
        )
    said = [f"{name} {_size(name, known)} → {_size(name, wanted)}" for name in news]
    config = task.config.model_copy(update={"resource_requirements": wanted})
    cause = f"resources changed: {', '.join(said)}{f' ({reason})' if reason else ''}"
    return Change(note(task, now, config=config), TaskResourcesChanged, cause)


def _size(name: str, asks: ResourceRequirements) -> str:
    value = getattr(asks, name)
    return f"{value / 2**30:g} GiB" if "memory" in name else f"{value:g}"


def archived(task: TaskDocument, now: datetime) -> Change | None:
    """Put a task aside that is over.

    Raises:
        IllegalTransition: It is not over.
    """
    if task.status not in FINAL:
        raise IllegalTransition(f"task {task.task_id} is {task.status} and cannot be archived: it is not over")
    return (
        None
        if task.archived_at is not None
        else Change(note(task, now, archived_at=now), TaskArchived, "archived")
    )
