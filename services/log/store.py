"""What the log service keeps of tasks: that they exist."""

from trainwright.storage.document import Collection, Reader, Transaction

TASKS = Collection("tasks")


async def note_task(tx: Transaction, task_id: str) -> None:
    """Remember a task."""
    if not await task_exists(tx, task_id):
        await tx.put(TASKS.name, task_id, {"task_id": task_id})


async def task_exists(store: Reader, task_id: str) -> bool:
    """Return whether a task is known."""
    return await store.get(TASKS.name, task_id) is not None
