"""What the task service does by itself: say things again that were not answered, forget, put tasks aside."""

import logging
from collections.abc import AsyncIterator
from datetime import timedelta

from services.task import domain
from services.task.handlers.edits import archive_task
from services.task.handlers.saving import TASK
from services.task.store import CONFIRMATIONS, REQUESTS, TASKS
from trainwright.contracts.base import iso
from trainwright.contracts.task import FINAL, TaskDocument, TaskPhase, TaskStatus, TaskStatusChanged
from trainwright.runtime.clock import Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import announcement, emit
from trainwright.runtime.reminders import Reminders
from trainwright.storage.document import Document, DocumentStore, In, Range, Where

logger = logging.getLogger(__name__)

ANNOUNCED = frozenset(
    {TaskPhase.WAITING_SLOTS, TaskPhase.WAITING_QUOTA, TaskPhase.BACKING_OFF}
    | {TaskPhase.STARTING, TaskPhase.STOPPING}
)
"""Phases in which a task waits for somebody's answer; so does a held one whose worker is still to stop a run."""
REQUESTS_KEPT = timedelta(hours=24)
ARCHIVED_AT_ONCE = 500
LOOKED_AT_ONCE = 200
"""Tasks that one question asks for: thousands at once would hold the store's reader for a second."""


class Announcer:
    """Says again, after 1, 2, 4 … minutes and then every hour, what waits for somebody who did not answer."""

    def __init__(self, store: DocumentStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._reminders = Reminders()

    async def run(self) -> None:
        """Do one round."""
        self._reminders.begin()
        async for item in self._live():
            if self._reminders.is_due(item["task_id"], item["version"]):
                await self._say(TaskDocument.model_validate(item))

    async def _live(self) -> AsyncIterator[Document]:
        """Yield the tasks that are not over, perhaps twice; some at a time, so that requests are answered."""
        for status in (TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.PAUSED):
            where, cursor = {"status": status, "archived_at": None}, None
            while True:
                page = await self._store.find(
                    TASKS.name, where, sort="created_at", limit=LOOKED_AT_ONCE, cursor=cursor
                )
                for item in page.items:
                    yield item
                cursor = page.next_cursor
                if cursor is None:
                    break

    async def _say(self, task: TaskDocument) -> None:
        held = task.phase is TaskPhase.HELD and task.worker_id is not None
        if task.phase in ANNOUNCED or held or (task.phase in domain.LIVE and domain.is_waiting(task)):
            event = TaskStatusChanged(task=task)
            async with self._store.transaction() as tx:
                cause = announcement(event, self._clock)
                await emit(tx, [event], source="task", cause=cause, clock=self._clock)


async def forget_requests(store: DocumentStore, clock: Clock) -> None:
    """Drop Idempotency-Keys of more than a day ago, and confirmations that were never given."""
    before = iso(clock.now() - REQUESTS_KEPT)
    page = await store.find(REQUESTS.name, {"created_at": Range(lt=before)}, sort="created_at", limit=1000)
    over: Where = {"expires_at": Range(lt=iso(clock.now()))}
    late = await store.find(CONFIRMATIONS.name, over, sort="expires_at", limit=1000)
    async with store.transaction() as tx:
        for item in page.items:
            await tx.delete(REQUESTS.name, item["key"])
        for item in late.items:
            await tx.delete(CONFIRMATIONS.name, item["token"])


async def archive_old(store: DocumentStore, clock: Clock, *, days: float) -> None:
    """Put tasks aside that were over so many days ago; 0 days: never."""
    if not days:
        return
    where: Where = {
        "status": In(tuple(FINAL)),
        "archived_at": None,
        "ended_at": Range(lt=iso(clock.now() - timedelta(days=days))),
    }
    page = await store.find(TASKS.name, where, sort="ended_at", limit=ARCHIVED_AT_ONCE)
    for item in page.items:
        task_id = str(item["task_id"])
        async with store.transaction() as tx:
            task, events = await archive_task(task_id, actor=TASK, tx=tx, clock=clock)
            cause = Cause(derived_id(task_id, task.version, "archive"))
            await emit(tx, events, source=TASK, cause=cause, clock=clock)
    if page.items:
        logger.info("%d tasks were put aside", len(page.items))
