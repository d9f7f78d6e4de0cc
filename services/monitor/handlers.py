"""What the monitor does about events: keep points, know attempts and tasks. It emits nothing.

Fencing is no decision made here: every topic that names an attempt makes it known, and what counts is worked out
when it is read.
"""

from services.monitor.store import note_watched
from trainwright.contracts.attempt import AttemptEnded, AttemptEvent
from trainwright.contracts.metric import MetricBatch
from trainwright.contracts.queue import PlacementEvent
from trainwright.contracts.task import FINAL, TaskEvent
from trainwright.runtime.clock import Clock
from trainwright.runtime.outbox import Emitted
from trainwright.storage.document import Transaction
from trainwright.storage.series import Series


class Handlers:
    """Use cases over one series store."""

    def __init__(self, series: Series) -> None:
        self._series = series

    async def on_metric_batch(self, event: MetricBatch, *, tx: Transaction, clock: Clock) -> list[Emitted]:
        """Keep the points that are new."""
        await self._series.append(tx, event.task_id, event.attempt, event.points)
        return []

    async def on_attempt(self, event: AttemptEvent, *, tx: Transaction, clock: Clock) -> list[Emitted]:
        """Learn where an attempt started from, and where it ended."""
        attempt = event.attempt
        if attempt.started_at is not None:
            await self._series.note_attempt(tx, attempt.task_id, attempt.attempt, attempt.resume_step)
        if isinstance(event, AttemptEnded):
            ended = {"ended_attempt": attempt.attempt, "final_step": attempt.final_step}
            await note_watched(tx, attempt.task_id, ended)
        return []

    async def on_placement(self, event: PlacementEvent, *, tx: Transaction, clock: Clock) -> list[Emitted]:
        """Learn that an attempt exists: it fences those before it."""
        placement = event.placement
        if placement.attempt:
            await self._series.note_attempt(tx, placement.task_id, placement.attempt)
        return []

    async def on_task(self, event: TaskEvent, *, tx: Transaction, clock: Clock) -> list[Emitted]:
        """Know the task, and whether it is over."""
        task = event.task
        final_at = clock.now() if task.status in FINAL else None
        await note_watched(tx, task.task_id, {"status": task.status, "final_at": final_at})
        return []
