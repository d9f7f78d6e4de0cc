"""Who waits for a store's commits in this process: the relay for outbox rows, streams for any, callers for theirs.

Not here: any engine.
"""

import asyncio
from collections.abc import Awaitable, Generator
from typing import Any, TypeVar

T = TypeVar("T")


class Commit:
    """The next commit; awaiting it is optional."""

    def __init__(self) -> None:
        self._done = asyncio.Event()

    def set(self) -> None:
        """Wake who waits."""
        self._done.set()

    def __await__(self) -> Generator[Any, None, bool]:
        return self._done.wait().__await__()


class Commits:
    """The next commit, and whether outbox rows were added since somebody asked."""

    def __init__(self) -> None:
        self.next = Commit()
        self.outbox = asyncio.Event()

    def done(self, *, added_outbox: bool) -> None:
        """Tell that a transaction was committed."""
        if added_outbox:
            self.outbox.set()
        self.next.set()
        self.next = Commit()

    async def outbox_added(self) -> None:
        """Wait until a commit has added outbox rows since the last call."""
        await self.outbox.wait()
        self.outbox.clear()


async def to_its_end(step: Awaitable[T]) -> T:
    """Wait for the end of a step of a transaction, however often the caller is cancelled meanwhile.

    What a driver does on a thread goes on when its caller is cancelled; a rollback must come after it, not beside.
    """
    task, cancelled = asyncio.ensure_future(step), False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    found = task.result()
    if cancelled:
        raise asyncio.CancelledError
    return found
