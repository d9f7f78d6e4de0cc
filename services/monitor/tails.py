"""What streams ask of the store. Those that ask the same between the same two commits share one read.

A hundred streams of one task are woken by one commit and stand at one cursor: that is one question, and its
lines are written once.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import cached_property
from typing import Any, TypeVar

import orjson

from services.monitor import messages
from services.monitor.store import Watched, find_watched
from trainwright.storage.document import DocumentStore
from trainwright.storage.series import AttemptState, Series, Tail

T = TypeVar("T")


class Told:
    """What follows a cursor, and its lines as they are sent."""

    def __init__(self, tail: Tail) -> None:
        self.cursor, self.more = tail.cursor, tail.more
        self.attempts: list[AttemptState] = tail.attempts
        self._tail = tail

    @cached_property
    def lines(self) -> list[tuple[int, str]]:
        """Return each record's number and line."""
        return [(record.seq, written(messages.record_line(record))) for record in self._tail.records]


class Tails:
    """One process's streams and their store."""

    def __init__(self, store: DocumentStore, series: Series) -> None:
        self._store = store
        self.series = series
        self._asked: dict[object, asyncio.Task[Any]] = {}
        self._news: asyncio.Task[Any] | None = None
        self._since: Awaitable[object] | None = None

    def news(self) -> asyncio.Task[Any]:
        """Return what is done at the next commit, for all who wait: take it before a question; never cancel it."""
        committed = self._store.next_commit()
        if committed is not self._since or self._news is None or self._news.done():
            self._since, self._news = committed, asyncio.create_task(_wait(committed))
        return self._news

    async def after(
        self, news: asyncio.Task[Any], task_id: str, cursor: int, names: frozenset[str] | None, limit: int
    ) -> Told:
        """Return what follows a cursor, as it is after ``news`` was taken."""

        async def ask() -> Told:
            return Told(await self.series.after(task_id, cursor, names, limit))

        return await self._shared((news, task_id, cursor, names, limit), ask)

    async def watched(self, news: asyncio.Task[Any], task_id: str) -> Watched | None:
        """Return what is known of a task, as it is after ``news`` was taken."""
        return await self._shared((news, task_id), lambda: find_watched(self._store, task_id))

    async def _shared(self, key: object, ask: Callable[[], Coroutine[Any, Any, T]]) -> T:
        asked: asyncio.Task[T] | None = self._asked.get(key)
        if asked is None:
            asked = self._asked[key] = asyncio.create_task(ask())
            asked.add_done_callback(lambda task: self._answered(key, task))
        return await asyncio.shield(asked)

    def _answered(self, key: object, task: asyncio.Task[Any]) -> None:
        self._asked.pop(key, None)
        if not task.cancelled():
            task.exception()  # who asked may have left, and nobody else is to be told


async def _wait(committed: Awaitable[object]) -> None:
    await committed


def written(line: dict[str, Any]) -> str:
    """Return a line as it is sent."""
    return orjson.dumps(line).decode()
