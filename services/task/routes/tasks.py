"""Tasks: create, list, show, change, run again."""

import asyncio
import hashlib
from functools import partial
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Header, Path, Query
from pydantic import BaseModel

from services.task import handlers, views
from services.task.routes.asking import done
from services.task.settings import TaskSettings
from services.task.store import (
    TASKS,
    SeenRequest,
    attempts_of,
    get_task,
    history_of,
    remember_request,
    seen_request,
    stored_task,
)
from services.task.submission import parsed, resolve
from trainwright.contracts.base import Event
from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.contracts.task import (
    AttemptList,
    History,
    TaskCreatedAnswer,
    TaskPage,
    TaskStatus,
    TaskView,
)
from trainwright.contracts.task_config import ChangeTask, CreateTask, RerunTask, SetResources, TaskConfig
from trainwright.documents.changes import merged
from trainwright.runtime.clock import Clock
from trainwright.runtime.http import Caller, Calling
from trainwright.runtime.outbox import accept
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore, Has, Range, Transaction, Where

TaskId = Annotated[str, Path(max_length=100)]
ONCE = "The same request with the same key within 24 hours creates one task and gets the same answer."
Once = Annotated[str | None, Header(max_length=200, description=ONCE)]
Archived = Literal["hide", "show", "only"]
ARCHIVED: dict[Archived, Where] = {
    "hide": {"archived_at": None},
    "show": {},
    "only": {"archived_at": Range(gt="")},
}

EXAMPLE = {
    "config": {
        "name": "walmart-weekly",
        "recipe": "forecast",
        "parameters": {"model": "tcn", "mode": "store", "horizon": 8, "max_steps": 300, "seed": 1},
        "data": {
            "path": "/data/walmart_sales_weekly.csv",
            "time": "Date",
            "target": "Weekly_Sales",
            "product": "Dept",
            "store": "Store",
        },
        "resource_requirements": {"gpu": 0, "cpu": 1, "memory": "2Gi"},
    },
    "start": True,
}


def task_routes(store: DocumentStore, blobs: BlobStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    """Return the routes that make, list, show and change tasks."""
    router = APIRouter(tags=["tasks"])
    router.include_router(_making_routes(store, blobs, settings, clock))
    router.include_router(_reading_routes(store, clock))
    return router


def _making_routes(store: DocumentStore, blobs: BlobStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.post("/tasks", status_code=201, summary="Create a task, and start it if asked")
    async def create_task(
        request: Annotated[CreateTask, Body(openapi_examples={"forecast": {"value": EXAMPLE}})],
        caller: Calling,
        idempotency_key: Once = None,
    ) -> TaskCreatedAnswer:
        if (answer := await _answered(store, request, None, idempotency_key)) is not None:
            return answer
        given, origin = await _stored(store, request) if request.config is None else (request.config, {})
        origin |= {"depends_on": request.depends_on, "on_dependency_failure": request.on_dependency_failure}
        return await _created(given, request, request.start, origin, caller, idempotency_key)

    @router.post("/tasks/{task_id}/rerun", status_code=201, summary="Run a task's document again as a new task")
    async def rerun_task(
        task_id: TaskId,
        request: Annotated[RerunTask, Body(default_factory=RerunTask)],
        caller: Calling,
        idempotency_key: Once = None,
    ) -> TaskCreatedAnswer:
        if (answer := await _answered(store, request, task_id, idempotency_key)) is not None:
            return answer
        task = await get_task(store, task_id)
        given = parsed(merged(task.config.model_dump(mode="json"), request.changes or {}), "changes.")
        origin = {"rerun_of": task_id, "config_id": task.config_id, "config_version": task.config_version}
        return await _created(given, request, request.start, origin, caller, idempotency_key)

    async def _created(
        given: TaskConfig,
        request: CreateTask | RerunTask,
        run: bool,
        origin: dict[str, Any],
        caller: Caller,
        key: str | None,
    ) -> TaskCreatedAnswer:
        """Create a task once for a key, and answer the same to the same request."""
        await accept(store)
        request_hash = _hash_of(request, origin.get("rerun_of"))
        config = await resolve(given, request, blobs=blobs, settings=settings)

        async def create(*, tx: Transaction, clock: Clock) -> tuple[TaskCreatedAnswer, list[Event]]:
            if key and (seen := await seen_request(tx, key)):
                return _same_answer(seen, request_hash, key), []
            task, events = await handlers.create_task(
                config, run=run, actor=caller.actor, tx=tx, clock=clock, **origin
            )
            answer = TaskCreatedAnswer(task_id=task.task_id, status=task.status, created_at=task.created_at)
            if key:
                seen = SeenRequest(request_hash, answer.model_dump(mode="json"))
                await remember_request(tx, key, seen, clock.now())
            return answer, events

        return await done(create, store=store, caller=caller, clock=clock)

    return router


def _reading_routes(store: DocumentStore, clock: Clock) -> APIRouter:
    router = APIRouter()

    @router.get("/tasks", summary="List tasks, newest first")
    async def list_tasks(
        status: Annotated[TaskStatus | None, Query(description="Only those with this status.")] = None,
        strategy: Annotated[str | None, Query(max_length=200, description="Only this tenant's.")] = None,
        label: Annotated[str | None, Query(pattern="^[^=]+=", description="`name=value`.")] = None,
        archived: Annotated[Archived, Query(description="Archived tasks too, or only those.")] = "hide",
        limit: Annotated[int, Query(ge=1, le=500, description="Most tasks on a page.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of another page.")] = None,
    ) -> TaskPage:
        where: dict[str, Any] = {"status": status} if status else {}
        where |= {"config.strategy": strategy} if strategy else {}
        where |= {"label_list": Has(label)} if label else {}
        where |= ARCHIVED[archived]
        return await _page(store, where, limit, cursor)

    @router.get("/tasks/{task_id}", summary="One task: status, progress, latest metrics, attempts")
    async def show_task(task_id: TaskId) -> TaskView:
        return await views.task_view(store, await stored_task(store, task_id))

    @router.patch("/tasks/{task_id}", summary="Change a task's priority, name, labels or dependencies")
    async def change_task(task_id: TaskId, request: ChangeTask, caller: Calling) -> TaskView:
        change = partial(handlers.change_task, task_id, request, actor=caller.actor)
        task = await done(change, store=store, caller=caller, clock=clock)
        return await views.task_view(store, task.model_dump(mode="json"))

    @router.patch("/tasks/{task_id}/resources", summary="Change what a task asks for while it waits or is paused")
    async def set_resources(task_id: TaskId, request: SetResources, caller: Calling) -> TaskView:
        change = partial(handlers.set_resources, task_id, request, actor=caller.actor)
        task = await done(change, store=store, caller=caller, clock=clock)
        return await views.task_view(store, task.model_dump(mode="json"))

    @router.get("/tasks/{task_id}/history", summary="Every transition of a task: who, when, why")
    async def show_history(task_id: TaskId) -> History:
        await get_task(store, task_id)
        return History(task_id=task_id, entries=await history_of(store, task_id))

    @router.get("/tasks/{task_id}/attempts", summary="Every attempt of a task: where, how long, how it ended")
    async def show_attempts(task_id: TaskId) -> AttemptList:
        await get_task(store, task_id)
        return AttemptList(task_id=task_id, attempts=await attempts_of(store, task_id))

    return router


def _hash_of(request: BaseModel, of_task: str | None) -> str:
    return hashlib.sha256(request.model_dump_json().encode() + (of_task or "").encode()).hexdigest()


async def _page(store: DocumentStore, where: Where, limit: int, cursor: str | None) -> TaskPage:
    found = store.find(TASKS.name, where, sort="-created_at", limit=limit, cursor=cursor)
    page, total = await asyncio.gather(found, store.count(TASKS.name, where))
    rows = await views.task_summaries(store, page.items)
    return TaskPage(tasks=rows, total=total, next_cursor=page.next_cursor)


async def _stored(store: DocumentStore, request: CreateTask) -> tuple[TaskConfig, dict[str, Any]]:
    """Return the document of a stored configuration with the changes that are asked for."""
    async with store.transaction() as tx:
        found = await handlers.document_of(tx, str(request.config_id), request.config_version)
    origin = {"config_id": found.config_id, "config_version": found.version}
    return parsed(merged(found.config, request.changes or {}), "config."), origin


async def _answered(
    store: DocumentStore, request: BaseModel, of_task: str | None, key: str | None
) -> TaskCreatedAnswer | None:
    """Return the answer to a request that was answered, whatever has become of what it names since."""
    seen = await seen_request(store, key) if key else None
    return None if seen is None or key is None else _same_answer(seen, _hash_of(request, of_task), key)


def _same_answer(seen: SeenRequest, request_hash: str, key: str) -> TaskCreatedAnswer:
    if seen.request_hash != request_hash:
        error = FieldError(path="Idempotency-Key", message="use a new key for a new request")
        raise InvalidInput(f"Idempotency-Key {key[:40]!r} was used for another request", [error])
    return TaskCreatedAnswer.model_validate(seen.answer)
