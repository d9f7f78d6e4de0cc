"""Tasks, their history and attempts, what they wait for, and requests that were answered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from services.task.store.parameters import save_changes
from trainwright.contracts.base import iso
from trainwright.contracts.errors import NotFound
from trainwright.contracts.parameters import ChangedValue
from trainwright.contracts.task import AttemptSummary, HistoryEntry, TaskDocument, TaskPhase, TaskStatus
from trainwright.storage.document import Collection, Document, In, Reader, Transaction
from trainwright.storage.meeting import meet

TASKS = Collection(
    "tasks",
    indexes=(
        ("status", "archived_at", "created_at"),
        ("archived_at", "created_at"),
        "created_at",
        "updated_at",
        "ended_at",
        "config.strategy",
    ),
)
HISTORY = Collection("history", indexes=("task_id",))
ATTEMPTS = Collection("attempts", indexes=("task_id",))
PROGRESS = Collection("progress")
REQUESTS = Collection("requests", indexes=("created_at",))
DEPENDENCIES = Collection("dependencies", indexes=("task_id", "on"))
"""One row for each task that another one still waits for."""

MANY = 100_000


async def find_task(reader: Reader, task_id: str) -> TaskDocument | None:
    """Return a task, or None."""
    found = await reader.get(TASKS.name, task_id)
    return None if found is None else TaskDocument.model_validate(found)


async def get_task(reader: Reader, task_id: str) -> TaskDocument:
    """Return a task.

    Raises:
        NotFound: There is none of this name.
    """
    return TaskDocument.model_validate(await stored_task(reader, task_id))


async def stored_task(reader: Reader, task_id: str) -> Document:
    """Return a task as it is stored, for who shows it: it was validated when it was written.

    Raises:
        NotFound: There is none of this name.
    """
    found = await reader.get(TASKS.name, task_id)
    if found is None:
        raise NotFound(f"there is no task {task_id[:80]!r}")
    return found


async def trains(reader: Reader, task_id: str, attempt: int) -> bool:
    """Return whether this attempt is the one that the task trains with: a report of progress changes nothing then.

    Thousands of runs report every few seconds: their tasks are not validated for that.
    """
    found = await reader.get(TASKS.name, task_id)
    if found is None or found["attempt"] != attempt:
        return False
    return bool(found["status"] == TaskStatus.RUNNING and found["phase"] == TaskPhase.TRAINING)


async def save_task(
    tx: Transaction, task: TaskDocument, *, actor: str, cause: str, changes: Mapping[str, ChangedValue]
) -> None:
    """Write a task's next version and its line of history; without a cause it gets none."""
    if task.parameter_changes:
        before = await tx.get(TASKS.name, task.task_id) or {}
        await save_changes(tx, task.task_id, before.get("parameter_changes", []), task.parameter_changes)
    labels = [f"{name}={value}" for name, value in task.config.labels.items()]  # as filters name them
    document = {**task.model_dump(mode="json"), "label_list": labels}
    await tx.put(TASKS.name, task.task_id, document, expect=task.version - 1)
    if not cause:
        return
    entry = HistoryEntry(
        version=task.version,
        time=task.updated_at,
        actor=actor,
        cause=cause,
        status=task.status,
        phase=task.phase,
        reason=task.reason,
        attempt=task.attempt,
        changes=dict(changes),
    )
    line = {"task_id": task.task_id, **entry.model_dump(mode="json")}
    await tx.put(HISTORY.name, f"{task.task_id}/{task.version:08d}", line)


async def history_of(reader: Reader, task_id: str) -> list[HistoryEntry]:
    """Return a task's transitions, oldest first."""
    page = await reader.find(HISTORY.name, {"task_id": task_id}, limit=MANY)
    return [HistoryEntry.model_validate(item) for item in page.items]


async def note_attempt(tx: Transaction, task_id: str, attempt: int, **fields: Any) -> None:
    """Add what is known of one attempt; what is None is not known yet."""
    key = f"{task_id}/{attempt:06d}"
    known = await tx.get(ATTEMPTS.name, key) or {"task_id": task_id, "attempt": attempt}
    news = {name: iso(v) if isinstance(v, datetime) else v for name, v in fields.items() if v is not None}
    await tx.put(ATTEMPTS.name, key, {**known, **news})


async def note_members(tx: Transaction, task_id: str, attempt: int, news: Mapping[int, dict[str, Any]]) -> None:
    """Add what is known of the workers that run one attempt together, by rank."""
    found = await tx.get(ATTEMPTS.name, f"{task_id}/{attempt:06d}") or {}
    members = dict(found.get("ranks", {}))
    for rank, fields in news.items():
        members[str(rank)] = {**members.get(str(rank), {}), **fields}
    await note_attempt(tx, task_id, attempt, ranks=members)


async def attempts_of(reader: Reader, task_id: str) -> list[AttemptSummary]:
    """Return a task's attempts, oldest first."""
    page = await reader.find(ATTEMPTS.name, {"task_id": task_id}, limit=MANY)
    return [AttemptSummary.model_validate({**item, "members": _members(item)}) for item in page.items]


def _members(attempt: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the members of an attempt by rank; one whose end was not told by the attempt's end was lost."""
    at_work = "lost" if attempt.get("ended_at") else "running" if attempt.get("started_at") else "starting"
    known = sorted((int(rank), fields) for rank, fields in attempt.get("ranks", {}).items())
    return [{"rank": rank, "state": at_work, **fields} for rank, fields in known]


async def last_progress(reader: Reader, task_id: str, attempt: int) -> Document:
    """Return what a task's newest attempt last reported; what an older one said is not shown."""
    last = await reader.get(PROGRESS.name, task_id)
    return last if last is not None and last["attempt"] == attempt else {}


async def last_progress_of(reader: Reader, tasks: Sequence[Document]) -> dict[str, Document]:
    """Return what the newest attempts of stored tasks last reported, by task, in one question."""
    attempts = {str(task["task_id"]): task["attempt"] for task in tasks}
    page = await reader.find(PROGRESS.name, {"id": In(tuple(attempts))}, limit=len(tasks) or 1)
    found = {(last.get("task_id"), last["attempt"]): last for last in page.items}
    return {task_id: found.get((task_id, attempt), {}) for task_id, attempt in attempts.items()}


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request that carried an Idempotency-Key, and what it was answered."""

    request_hash: str
    answer: dict[str, Any]


async def seen_request(reader: Reader, key: str) -> SeenRequest | None:
    """Return the request that used a key before."""
    found = await reader.get(REQUESTS.name, key)
    return None if found is None else SeenRequest(found["request_hash"], found["answer"])


async def remember_request(tx: Transaction, key: str, seen: SeenRequest, now: datetime) -> None:
    """Keep a request's answer for its key."""
    document = {
        "key": key,
        "request_hash": seen.request_hash,
        "answer": seen.answer,
        "created_at": iso(now),
    }
    await tx.put(REQUESTS.name, key, document)


async def set_dependencies(tx: Transaction, task_id: str, others: Sequence[str]) -> None:
    """Write which tasks, not done yet, a task waits for; one that is done at this moment looks for who waits."""
    for subject in (task_id, *others) if others else ():
        await meet(tx, subject)
    for other in await unmet_dependencies(tx, task_id):
        if other not in others:
            await forget_dependency(tx, task_id, other)
    for other in others:
        await tx.put(DEPENDENCIES.name, f"{other}/{task_id}", {"task_id": task_id, "on": other})


async def unmet_dependencies(reader: Reader, task_id: str) -> list[str]:
    """Return the tasks that a task still waits for."""
    page = await reader.find(DEPENDENCIES.name, {"task_id": task_id}, limit=MANY)
    return [str(item["on"]) for item in page.items]


async def dependants_of(reader: Reader, task_id: str) -> list[str]:
    """Return the tasks that wait for a task."""
    page = await reader.find(DEPENDENCIES.name, {"on": task_id}, limit=MANY)
    return [str(item["task_id"]) for item in page.items]


async def forget_dependency(tx: Transaction, task_id: str, other: str) -> None:
    """Note that a task waits for another one no more."""
    await tx.delete(DEPENDENCIES.name, f"{other}/{task_id}")
