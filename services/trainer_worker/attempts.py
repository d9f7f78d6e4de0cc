"""All attempts of this worker: take up what the store holds, adopt what an earlier incarnation left, sweep.

Not here: how one attempt is led (`lead.py`).
"""

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from services.trainer_worker import spawn, store
from services.trainer_worker.checkpoints import remove_local
from services.trainer_worker.domain import Attempt, AttemptState, Stop, StopCause
from services.trainer_worker.lead import Lead
from services.trainer_worker.place import Workplace
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.clock import Backoff
from trainwright.training import layout

logger = logging.getLogger(__name__)


class Attempts:
    """All attempts of this worker."""

    def __init__(self, place: Workplace) -> None:
        self._place = place
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._wake = asyncio.Event()
        self.leads: dict[str, Lead] = {}
        self.on_phase: Callable[[str], None] = lambda key: None
        self.stopping: Stop | None = None

    async def adopt(self) -> list[Attempt]:
        """Find what an earlier incarnation left: return the attempts that go on, end the rest.

        An attempt goes on if its shim lives or has written the ending, or if only the report is missing.
        """
        adopted: list[Attempt] = []
        for attempt in await store.live_attempts(self._place.documents):
            directory = self._place.folder / attempt.key
            ended = attempt.state is AttemptState.ENDED or (directory / layout.EXIT).exists()
            if ended or spawn.has_shim(directory):
                adopted.append(attempt)
            else:
                await self._give_up(attempt, directory)
        self._end_strangers({attempt.key for attempt in adopted})
        return adopted

    async def run(self) -> None:
        """Lead every attempt that the store holds, now and after each `act()`, until cancelled."""
        backoff = Backoff(self._place.clock)
        while True:
            self._wake.clear()
            try:
                await self._take_up()
                backoff.reset()
            except StoreUnavailable as error:
                logger.warning("attempts wait for the store: %s", error)
                await backoff.wait()
                continue
            await self._wake.wait()

    def act(self) -> None:
        """Look at what commands have changed."""
        self._wake.set()

    def stop_all(self, stop: Stop) -> None:
        """Ask every attempt to end, also those that come later."""
        self.stopping = stop
        self._wake.set()

    async def ended(self) -> None:
        """Wait until every attempt's end has been reported."""
        while self._tasks:
            await asyncio.wait(self._tasks.values())
            await self._place.clock.sleep(0)

    async def close(self) -> None:
        """Let go of the attempts: their shims and files go on without this process."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def sweep(self, before: datetime) -> int:
        """Forget attempts that were over before a moment, and delete their folders; return how many."""
        old = await store.over_before(self._place.documents, before)
        for attempt in old:
            await asyncio.to_thread(spawn.remove_folder, self._place.folder / attempt.key)
            async with self._place.documents.transaction() as tx:
                await store.forget_attempt(tx, attempt.key)
        return len(old)

    async def _take_up(self) -> None:
        for found in await store.live_attempts(self._place.documents):
            attempt = found
            if self.stopping is not None and attempt.state is not AttemptState.ENDED:
                attempt = await self._note_stop(attempt, self.stopping)
            lead = self.leads.get(attempt.key)
            if lead is not None:
                lead.refresh(attempt)
                continue
            lead = self.leads[attempt.key] = Lead(attempt, self._place, lambda key: self.on_phase(key))
            task = self._tasks[attempt.key] = asyncio.create_task(lead.run(), name=attempt.key)
            task.add_done_callback(lambda _, key=attempt.key: self._done(key))  # type: ignore[misc]

    async def _note_stop(self, attempt: Attempt, stop: Stop) -> Attempt:
        async with self._place.documents.transaction() as tx:
            fresh = await store.attempt_of(tx, attempt.key) or attempt
            both = stop if fresh.stop is None else fresh.stop.then(stop)
            stopped_attempt = fresh.model_copy(update={"stop": both})
            await store.put_attempt(tx, stopped_attempt)
        return stopped_attempt

    async def _give_up(self, attempt: Attempt, directory: Path) -> None:
        killed = await asyncio.to_thread(spawn.kill_leftovers, directory)
        await asyncio.to_thread(remove_local, directory)
        logger.warning("%s is lost: nothing watches over it; %d processes ended", attempt.key, killed)
        async with self._place.documents.transaction() as tx:
            now = self._place.clock.now()
            changes = {"state": AttemptState.LOST, "reported_at": now}
            await store.put_attempt(tx, attempt.model_copy(update=changes))

    def _end_strangers(self, known: set[str]) -> None:
        """End runs whose folders are here but of which the store knows nothing: it was lost, or restored."""
        folders = list(self._place.folder.iterdir()) if self._place.folder.is_dir() else []
        for directory in folders:
            if directory.name not in known and spawn.has_shim(directory):
                logger.warning("%s runs here but is not known; it is ended", directory.name)
                spawn.write_control(directory, Stop(kind=StopCause.FENCED, grace_seconds=0))

    def _done(self, key: str) -> None:
        task = self._tasks.pop(key, None)
        self.leads.pop(key, None)
        if task is not None and not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s was given up", key, exc_info=error)
