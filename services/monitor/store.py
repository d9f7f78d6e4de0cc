"""What the monitor keeps of tasks: enough to know them, and to know when a stream is over."""

from collections.abc import Mapping
from typing import Any

from trainwright.contracts.base import Contract, Timestamp
from trainwright.contracts.task import FINAL, TaskStatus
from trainwright.storage.document import Collection, Reader, Transaction

TASKS = Collection("tasks")


class Watched(Contract):
    """A task as the monitor knows it; ``final_at`` is when it learnt of the end."""

    task_id: str
    status: TaskStatus = TaskStatus.PENDING
    final_at: Timestamp | None = None
    ended_attempt: int | None = None
    final_step: int | None = None

    @property
    def is_final(self) -> bool:
        """Return whether the task is over."""
        return self.status in FINAL


async def find_watched(store: Reader, task_id: str) -> Watched | None:
    """Return a task, if any event has named it."""
    document = await store.get(TASKS.name, task_id)
    return None if document is None else Watched.model_validate(document)


async def note_watched(tx: Transaction, task_id: str, changes: Mapping[str, Any]) -> None:
    """Change what is known of a task."""
    known = await find_watched(tx, task_id)
    changed = (known or Watched(task_id=task_id)).model_copy(update=dict(changes))
    if changed != known:
        await tx.put(TASKS.name, task_id, changed.model_dump(mode="json"))
