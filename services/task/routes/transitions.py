"""Requests for transitions: start, pause, resume, cancel, archive."""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Path, Query, Response

from services.task import handlers
from services.task.routes.asking import done
from services.task.store import get_task
from trainwright.contracts.base import Event
from trainwright.contracts.task import FINAL, TaskDocument, TaskStatus, TransitionAnswer
from trainwright.runtime.clock import Clock
from trainwright.runtime.http import Caller, Calling
from trainwright.storage.document import DocumentStore, Transaction

TaskId = Annotated[str, Path(max_length=100)]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the new status.")]

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": TransitionAnswer, "description": "It was asked for and is not reached yet"}
}


class Ask(Protocol):
    """A request for a transition."""

    async def __call__(
        self, task_id: str, *, actor: str, tx: Transaction, clock: Clock
    ) -> tuple[TaskDocument, list[Event]]: ...


def transition_routes(store: DocumentStore, clock: Clock) -> APIRouter:
    """Return the routes of transitions."""
    router = APIRouter(tags=["tasks"])

    @router.post("/tasks/{task_id}/start", summary="Ask a task to run", responses=ACCEPTED)
    async def start_task(task_id: TaskId, caller: Calling, response: Response, wait: Wait = 0) -> TransitionAnswer:
        return await _transition(handlers.start_task, task_id, caller, response, wait, {TaskStatus.RUNNING})

    @router.post("/tasks/{task_id}/pause", summary="Ask a task to rest and free its place", responses=ACCEPTED)
    async def pause_task(task_id: TaskId, caller: Calling, response: Response, wait: Wait = 0) -> TransitionAnswer:
        return await _transition(handlers.pause_task, task_id, caller, response, wait, {TaskStatus.PAUSED})

    @router.post("/tasks/{task_id}/resume", summary="Ask a paused task to go on", responses=ACCEPTED)
    async def resume_task(
        task_id: TaskId, caller: Calling, response: Response, wait: Wait = 0
    ) -> TransitionAnswer:
        return await _transition(handlers.resume_task, task_id, caller, response, wait, {TaskStatus.RUNNING})

    @router.post("/tasks/{task_id}/cancel", summary="Ask a task to end for good", responses=ACCEPTED)
    async def cancel_task(
        task_id: TaskId, caller: Calling, response: Response, wait: Wait = 0
    ) -> TransitionAnswer:
        return await _transition(handlers.cancel_task, task_id, caller, response, wait, set())

    @router.post("/tasks/{task_id}/archive", summary="Put a task aside that is over; it stays readable")
    async def archive_task(task_id: TaskId, caller: Calling, response: Response) -> TransitionAnswer:
        return await _transition(handlers.archive_task, task_id, caller, response, 0, set())

    async def _transition(
        ask: Ask, task_id: str, caller: Caller, response: Response, wait: float, wanted: set[TaskStatus]
    ) -> TransitionAnswer:
        """Ask, wait for the status that was wanted or a final one, and answer the truth: 202 short of it."""
        task = await done(partial(ask, task_id, actor=caller.actor), store=store, caller=caller, clock=clock)
        task = await settled(task, lambda one: one.status in wanted | FINAL, wait, store=store, clock=clock)
        response.status_code = 200 if task.status in wanted | FINAL else 202
        return _answer(task)

    return router


async def settled(
    task: TaskDocument,
    is_so: Callable[[TaskDocument], bool],
    wait: float,
    *,
    store: DocumentStore,
    clock: Clock,
) -> TaskDocument:
    """Return a task as soon as it is so, or as it is when the time is over."""
    deadline = clock.monotonic() + wait
    while not is_so(task) and (left := deadline - clock.monotonic()) > 0:
        committed = asyncio.ensure_future(store.next_commit())
        task = await get_task(store, task.task_id)
        if not is_so(task):
            await asyncio.wait([committed], timeout=min(left, 1.0))
        committed.cancel()
    return task


def _answer(task: TaskDocument) -> TransitionAnswer:
    return TransitionAnswer(
        task_id=task.task_id,
        status=task.status,
        phase=task.phase,
        reason=task.reason,
        started_at=task.started_at,
        paused_at=task.paused_at,
        resumed_at=task.resumed_at,
        cancelled_at=task.ended_at if task.status is TaskStatus.CANCELLED else None,
        archived_at=task.archived_at,
    )
