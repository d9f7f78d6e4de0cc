"""Waiting for news: a reader's copy follows its owner by milliseconds, and people's next click may be faster."""

import asyncio
import re
from collections.abc import Awaitable, Callable

from trainwright.storage.document import DocumentStore

TASK_ID = re.compile(r"task-[0-9a-f]{12}")
PATIENCE = 1.0
"""Seconds that a task which was named may take to become known."""


async def becomes(check: Callable[[], Awaitable[bool]], store: DocumentStore, within: float) -> bool:
    """Return whether a check is true now, or after a commit of this process in so many seconds."""
    deadline = asyncio.get_running_loop().time() + within
    while True:
        committed = store.next_commit()
        if await check():
            return True
        left = deadline - asyncio.get_running_loop().time()
        try:
            await asyncio.wait_for(committed, left)
        except TimeoutError:
            return await check()


async def is_known(task_id: str, check: Callable[[], Awaitable[bool]], store: DocumentStore) -> bool:
    """Return whether a task is known; one that was created a moment ago is waited for."""
    return await becomes(check, store, PATIENCE if TASK_ID.fullmatch(task_id) else 0)
