"""What the board of a pass knows when the store fails it in the middle of a look."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.scheduler.board import COLLECTIONS, Board
from services.scheduler.store import STRATEGIES, USE
from tests.runtime_kit import FastClock
from trainwright.contracts.errors import StoreUnavailable
from trainwright.storage.sqlite import SqliteStore


class Failing:
    """A reader that fails at its second question."""

    def __init__(self, reader: Any) -> None:
        self._reader, self._asked = reader, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._reader, name)

    async def get(self, collection: str, id: str) -> Any:
        self._asked += 1
        if self._asked == 2:
            raise StoreUnavailable("as planned")
        return await self._reader.get(collection, id)


@pytest.fixture
async def documents(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    store = SqliteStore(tmp_path / "scheduler.db", (*COLLECTIONS, USE))
    await store.open()
    yield store
    await store.close()


async def allow(board: Board, documents: SqliteStore, workers: int) -> None:
    """Change what three strategies may use."""
    limits = {"cpu_percent": 50.0, "gpu_memory_mb": 8192, "max_workers": workers, "weight": 1.0, "removed": False}
    async with documents.transaction() as tx:
        for name in "abc":
            await tx.put(STRATEGIES.name, name, {"strategy": name, **limits})
            board.touch(STRATEGIES.name, name)


def allowed(board: Board) -> dict[str, int]:
    return {name: quota.max_workers for name, quota in board.state.shares.quotas.items()}


async def test_a_look_that_fails_half_way_forgets_nothing_of_what_was_touched(documents: SqliteStore) -> None:
    board = Board(clock=FastClock(), hears=lambda worker: True)
    await allow(board, documents, 1)
    async with documents.transaction() as tx:
        await board.refresh(tx)
    assert allowed(board) == {"a": 1, "b": 1, "c": 1}
    await allow(board, documents, 2)
    with pytest.raises(StoreUnavailable, match="as planned"):
        async with documents.transaction() as tx:
            await board.refresh(Failing(tx))
    assert board.is_behind
    async with documents.transaction() as tx:
        board.settle(await board.refresh(tx))
    assert allowed(board) == {"a": 2, "b": 2, "c": 2}
    assert not board.is_behind
