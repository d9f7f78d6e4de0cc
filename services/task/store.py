"""What the task service asks of its store, in its own words."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from trainwright.contracts.base import iso
from trainwright.contracts.errors import NotFound
from trainwright.contracts.task import AttemptSummary, HistoryEntry, TaskDocument
from trainwright.storage.document import Collection, Reader, Transaction

TASKS = Collection("tasks", indexes=("status", "created_at", "updated_at", "config.strategy"))
HISTORY = Collection("history", indexes=("task_id",))
ATTEMPTS = Collection("attempts", indexes=("task_id",))
PROGRESS = Collection("progress")
REQUESTS = Collection("requests", indexes=("created_at",))
COLLECTIONS = (TASKS, HISTORY, ATTEMPTS, PROGRESS, REQUESTS)

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
    task = await find_task(reader, task_id)
    if task is None:
        raise NotFound(f"there is no task {task_id[:80]!r}")
    return task


async def save_task(tx: Transaction, task: TaskDocument, *, actor: str, cause: str) -> None:
    """Write a task's next version and its line of history."""
    labels = [f"{name}={value}" for name, value in task.config.labels.items()]  # as filters name them
    document = {**task.model_dump(mode="json"), "label_list": labels}
    await tx.put(TASKS.name, task.task_id, document, expect=task.version - 1)
    entry = HistoryEntry(
        version=task.version,
        time=task.updated_at,
        actor=actor,
        cause=cause,
        status=task.status,
        phase=task.phase,
        reason=task.reason,
        attempt=task.attempt,
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


async def attempts_of(reader: Reader, task_id: str) -> list[AttemptSummary]:
    """Return a task's attempts, oldest first."""
    page = await reader.find(ATTEMPTS.name, {"task_id": task_id}, limit=MANY)
    return [AttemptSummary.model_validate(item) for item in page.items]


@dataclass(frozen=True, slots=True)
class SeenRequest:
    """A request that carried an Idempotency-Key, and what it was answered."""

    request_hash: str
    answer: dict[str, Any]


async def seen_request(tx: Transaction, key: str) -> SeenRequest | None:
    """Return the request that used a key before."""
    found = await tx.get(REQUESTS.name, key)
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
