"""What the log service does about events: keep records, know tasks and lost attempts. It emits nothing.

Records of every attempt stay, each with its attempt's number. Only what a worker wrote after it had been given up
is left out: another attempt runs by then, and two voices at once would only confuse. Records from before the loss
are kept however late they arrive.
"""

from services.log.domain import masked_record
from services.log.store import note_task
from trainwright.contracts.log import LogBatch, MemberLogBatch
from trainwright.contracts.queue import Placement, PlacementReleased, WorkerLost
from trainwright.contracts.task import TaskCreated
from trainwright.runtime.clock import Clock
from trainwright.runtime.outbox import Emitted
from trainwright.storage.document import Transaction
from trainwright.storage.records import Records


class Handlers:
    """Use cases over one store of records."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def on_log_batch(
        self, event: LogBatch | MemberLogBatch, *, tx: Transaction, clock: Clock
    ) -> list[Emitted]:
        """Keep the records that are new, without secrets."""
        records = [masked_record(record) for record in event.records]
        await self._records.append(tx, event.task_id, event.attempt, event.stream, records, event.rank)
        return []

    async def on_worker_lost(self, event: WorkerLost, *, tx: Transaction, clock: Clock) -> list[Emitted]:
        """Learn when an attempt was given up; of one on several workers, which of them and when."""
        lost = event.placement
        if not await self._note_members(lost, tx):
            await self._records.note_lost(tx, lost.task_id, lost.attempt, lost.updated_at)
        return []

    async def on_placement_released(
        self, event: PlacementReleased, *, tx: Transaction, clock: Clock
    ) -> list[Emitted]:
        """Learn which of several workers were given up before their attempt ended."""
        await self._note_members(event.placement, tx)
        return []

    async def on_task_created(self, event: TaskCreated, *, tx: Transaction, clock: Clock) -> list[Emitted]:
        """Know the task."""
        await note_task(tx, event.task.task_id)
        return []

    async def _note_members(self, placement: Placement, tx: Transaction) -> bool:
        """Note who was lost; return whether anybody was."""
        lost = [(member.rank, member.lost_at) for member in placement.members if member.lost_at is not None]
        for rank, at in lost:
            await self._records.note_lost(tx, placement.task_id, placement.attempt, at, rank)
        return bool(lost)
