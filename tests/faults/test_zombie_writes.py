"""What a replaced attempt still says is kept and not shown, however much; and who looks for it would see it.

The monitor's own use cases over its own store, told what a worker tells that hung past its lease. The same checker
looks at a whole platform in `python -m tests.faults.outages --scenario zombie-writes`, which must fail with
`--plant fence`.
"""

from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from services.monitor.handlers import Handlers
from services.monitor.store import TASKS
from tests.faults.outages import late_and_visible
from trainwright.contracts.attempt import AttemptDocument, AttemptStarted
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.queue import Placement, PlacementAssigned, PlacementState
from trainwright.runtime.clock import SystemClock
from trainwright.storage import sqlite_series
from trainwright.storage.series import Fence
from trainwright.storage.sqlite import SqliteStore
from trainwright.storage.sqlite_series import SqliteSeries

TASK, NOW = "task-0123456789ab", datetime(2026, 1, 1, tzinfo=UTC)
WENT_ON, HUNG, LATE = 100, 200, 12_000
"""The step that the second attempt went on from, the last one told in time, and what is told after that."""


class Told:
    """A monitor, and what it is told."""

    def __init__(self, store: SqliteStore) -> None:
        self._store, self._clock = store, SystemClock()
        self.series = SqliteSeries(store)
        self.handlers = Handlers(self.series)

    async def placed(self, attempt: int) -> None:
        """Hear of the scheduler that an attempt has a place."""
        placement = Placement(
            task_id=TASK, version=attempt, state=PlacementState.ASSIGNED, attempt=attempt, updated_at=NOW
        )
        async with self._store.transaction() as tx:
            await self.handlers.on_placement(PlacementAssigned(placement=placement), tx=tx, clock=self._clock)

    async def started(self, attempt: int, resume_step: int) -> None:
        """Hear of its worker that it has started."""
        document = AttemptDocument(
            task_id=TASK,
            attempt=attempt,
            version=1,
            worker_id=f"worker-{attempt}",
            incarnation="one",
            started_at=NOW,
            resume_step=resume_step,
        )
        async with self._store.transaction() as tx:
            await self.handlers.on_attempt(AttemptStarted(attempt=document), tx=tx, clock=self._clock)

    async def logs(self, attempt: int, steps: Iterable[int]) -> None:
        """Hear what a run logs: at each step the number of its attempt."""
        points = [MetricPoint(step, 1e9 + step, step, {"attempt": float(attempt)}) for step in steps]
        async with self._store.transaction() as tx:
            batch = MetricBatch(task_id=TASK, attempt=attempt, points=points)
            await self.handlers.on_metric_batch(batch, tx=tx, clock=self._clock)

    async def replaced(self) -> None:
        """Hear the whole story of an attempt that hung, and told late what it had gone on writing meanwhile."""
        await self.placed(1)
        await self.started(1, 0)
        await self.logs(1, range(HUNG + 1))
        await self.placed(2)
        late = [range(first, first + 500) for first in range(HUNG + 1, HUNG + 1 + LATE, 500)]
        for steps in late[: len(late) // 2]:
            await self.logs(1, steps)
        await self.started(2, WENT_ON)
        for steps in late[len(late) // 2 :]:
            await self.logs(1, steps)
        await self.logs(2, range(WENT_ON + 1, WENT_ON + 51))

    async def shown(self) -> list[tuple[int, float]]:
        """Return what people see."""
        return await self.series.points(TASK, "attempt")

    async def kept(self) -> int:
        """Return how many points are kept, shown or not."""
        return await self.series.head(TASK)


@pytest.fixture
async def told(tmp_path: Path) -> AsyncIterator[Told]:
    store = SqliteStore(tmp_path / "monitor.db", (TASKS,), sqlite_series.SCHEMA)
    await store.open()
    yield Told(store)
    await store.close()


async def test_of_ten_thousand_late_points_none_is_shown_and_all_are_kept(told: Told) -> None:
    await told.replaced()
    shown = await told.shown()
    assert late_and_visible(shown, WENT_ON) == []
    assert [attempt for _, attempt in shown] == [1.0] * (WENT_ON + 1) + [2.0] * 50
    assert await told.kept() >= HUNG + LATE
    assert LATE >= 10_000


async def test_a_read_without_its_fence_is_found(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_series, "fence_of", lambda *_: Fence())
    await told.replaced()
    assert len(late_and_visible(await told.shown(), WENT_ON)) == HUNG - WENT_ON + LATE
