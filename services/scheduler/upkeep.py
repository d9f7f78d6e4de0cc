"""What the scheduler keeps for its next life, says again, gives back by itself, and forgets."""

from dataclasses import dataclass, field, replace
from datetime import timedelta

from services.scheduler.passes import Passes
from services.scheduler.requests import end_reservation
from services.scheduler.store import (
    ENTRIES,
    LOST,
    RESERVATIONS,
    STOPPED,
    USE,
    WORKERS,
    all_of,
    save_worker,
    workers,
)
from trainwright.contracts.queue import Placement, WorkerLost
from trainwright.contracts.quota import ReservationDocument
from trainwright.runtime.clock import derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import announcement, emit
from trainwright.runtime.reminders import Reminders
from trainwright.storage.document import Transaction

FORGOTTEN = timedelta(days=7)
"""After its end a reservation is still there for so long."""
WORKER_FORGOTTEN = timedelta(days=30)
"""A worker that is gone is known for so long: when it comes back, what was decided of it still holds."""


@dataclass(slots=True)
class Upkeep:
    """Rounds over what is stored."""

    passes: Passes
    _unused: dict[str, float] = field(default_factory=dict)
    """Since when nothing of a reservation was in use; a new life counts from its own start."""
    _reminders: Reminders = field(default_factory=Reminders)

    async def run(self) -> None:
        """Do one round."""
        board = await self.passes.look()
        at, accounts = board.now(), list(board.state.shares.accounts.items())
        async with self.passes.store.transaction() as tx:
            for name, account in accounts:
                past = account.moved(at, board.state.pool)
                await tx.put(USE.name, name or "-", {"strategy": name, "past": past, "at": at})
            await self._look_at_reservations(tx)
            await self._forget_workers(tx)
            await self._say_losses_again(tx)

    async def _look_at_reservations(self, tx: Transaction) -> None:
        """End those that were not used for as long as they say; forget those that have long been over."""
        clock = self.passes.clock
        now, at = clock.now(), clock.monotonic()
        used = {run.reservation for run in self.passes.board.state.runs.values()}
        for found in await all_of(tx, RESERVATIONS):
            one = ReservationDocument.model_validate(found)
            id = one.reservation_id
            if one.until < now - FORGOTTEN:
                await tx.delete(RESERVATIONS.name, id)
            if one.idle_after is None or one.ended or one.until <= now or id in used:
                self._unused.pop(id, None)
            elif at - self._unused.setdefault(id, at) >= one.idle_after:
                _, events = await end_reservation(id, actor="scheduler", tx=tx, clock=clock)
                cause = Cause(derived_id("scheduler", id, one.version))
                await emit(tx, events, source="scheduler", cause=cause, clock=clock)
                self.passes.wake(RESERVATIONS.name, id)

    async def _forget_workers(self, tx: Transaction) -> None:
        """Forget workers that have long been gone, unless a run there is still waited for."""
        now, runs_on = self.passes.clock.now(), self.passes.board.state.runs_on
        for known in await workers(tx, STOPPED, LOST):
            worker_id = known.worker.worker_id
            if known.gone_at is None:  # written before this was noted
                await save_worker(tx, replace(known, gone_at=now))
            elif now - known.gone_at > WORKER_FORGOTTEN and not runs_on.get(worker_id):
                await tx.delete(WORKERS.name, worker_id)
                self.passes.wake(WORKERS.name, worker_id)

    async def _say_losses_again(self, tx: Transaction) -> None:
        """Say of attempts that were lost, after 1, 2, 4 … rounds, what their tasks have not heard."""
        self._reminders.begin()
        for found in await all_of(tx, ENTRIES, {"unheard": "yes"}):
            placement = Placement.model_validate(found["placement"])
            if self._reminders.is_due(placement.task_id, placement.version):
                event, clock = WorkerLost(placement=placement), self.passes.clock
                await emit(tx, [event], source="scheduler", cause=announcement(event, clock), clock=clock)
