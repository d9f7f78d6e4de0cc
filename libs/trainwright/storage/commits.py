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
        self._next: Commit | None = None
        self.outbox = asyncio.Event()

    @property
    def next(self) -> Commit:
        """The next commit; most of them nobody asks for."""
        self._next = self._next or Commit()
        return self._next

    def done(self, *, added_outbox: bool) -> None:
        """Tell that a transaction was committed."""
        if added_outbox:
            self.outbox.set()
        if self._next is not None:
            self._next.set()
            self._next = None

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
