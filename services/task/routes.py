"""The task service's HTTP edge."""

import asyncio
import hashlib
from typing import Annotated, Any

from fastapi import APIRouter, Body, Header, Path, Query, Request, Response, status
from fastapi.responses import StreamingResponse

from services.task import handlers, views
from services.task.settings import TaskSettings
from services.task.store import (
    TASKS,
    SeenRequest,
    get_task,
    history_of,
    remember_request,
    seen_request,
)
from services.task.submission import resolve
from trainwright.contracts.errors import FieldError, InvalidInput, NotFound
from trainwright.contracts.task import (
    FINAL,
    CreateTask,
    History,
    StoredFile,
    TaskCreatedAnswer,
    TaskDocument,
    TaskPage,
    TaskStatus,
    TaskView,
    TransitionAnswer,
)
from trainwright.runtime.clock import Clock
from trainwright.runtime.http import Caller, Calling
from trainwright.runtime.outbox import accept, emit
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore, Has, Transaction, Where

TaskId = Annotated[str, Path(max_length=100)]
Wait = Annotated[float, Query(ge=0, le=60, description="Seconds to wait for the new status.")]

ONCE = "The same request with the same key within 24 hours creates one task and gets the same answer."
ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {"model": TransitionAnswer, "description": "It was asked for and is not reached yet"}
}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The content", "content": {"application/octet-stream": {}}}
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


def build_router(store: DocumentStore, blobs: BlobStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    """Return the routes of tasks and of the files they need."""
    router = APIRouter()
    router.include_router(_task_routes(store, blobs, settings, clock))
    router.include_router(_transition_routes(store, clock))
    router.include_router(_file_routes(blobs, settings))
    return router


def _task_routes(store: DocumentStore, blobs: BlobStore, settings: TaskSettings, clock: Clock) -> APIRouter:
    router = APIRouter(tags=["tasks"])

    @router.post("/tasks", status_code=201, summary="Create a task, and start it if asked")
    async def create_task(
        request: Annotated[CreateTask, Body(openapi_examples={"forecast": {"value": EXAMPLE}})],
        caller: Calling,
        idempotency_key: Annotated[str | None, Header(max_length=200, description=ONCE)] = None,
    ) -> TaskCreatedAnswer:
        await accept(store)
        request_hash = hashlib.sha256(request.model_dump_json().encode()).hexdigest()
        config = await resolve(request, blobs=blobs, settings=settings)
        async with store.transaction() as tx:
            if idempotency_key and (seen := await seen_request(tx, idempotency_key)):
                return _same_answer(seen, request_hash, idempotency_key)
            task, events = await handlers.create_task(
                config, run=request.start, actor=caller.actor, tx=tx, clock=clock
            )
            answer = TaskCreatedAnswer(task_id=task.task_id, status=task.status, created_at=task.created_at)
            if idempotency_key:
                seen = SeenRequest(request_hash, answer.model_dump(mode="json"))
                await remember_request(tx, idempotency_key, seen, clock.now())
            await emit(tx, events, source="task", cause=caller.cause, clock=clock)
        return answer

    @router.get("/tasks", summary="List tasks, newest first")
    async def list_tasks(
        status: Annotated[TaskStatus | None, Query(description="Only those with this status.")] = None,
        strategy: Annotated[str | None, Query(max_length=200, description="Only this tenant's.")] = None,
        label: Annotated[str | None, Query(pattern="^[^=]+=", description="`name=value`.")] = None,
        limit: Annotated[int, Query(ge=1, le=500, description="Most tasks on a page.")] = 50,
        cursor: Annotated[str | None, Query(max_length=500, description="`next_cursor` of another page.")] = None,
    ) -> TaskPage:
        where: dict[str, Any] = {"status": status} if status else {}
        where |= {"config.strategy": strategy} if strategy else {}
        where |= {"label_list": Has(label)} if label else {}
        return await _page(store, where, limit, cursor)

    @router.get("/tasks/{task_id}", summary="One task: status, progress, latest metrics, attempts")
    async def show_task(task_id: TaskId) -> TaskView:
        return await views.task_view(store, await get_task(store, task_id))

    @router.get("/tasks/{task_id}/history", summary="Every transition of a task: who, when, why")
    async def show_history(task_id: TaskId) -> History:
        await get_task(store, task_id)
        return History(task_id=task_id, entries=await history_of(store, task_id))

    return router


def _transition_routes(store: DocumentStore, clock: Clock) -> APIRouter:
    router = APIRouter(tags=["tasks"])

    @router.post("/tasks/{task_id}/start", summary="Ask a task to run", responses=ACCEPTED)
    async def start_task(task_id: TaskId, caller: Calling, response: Response, wait: Wait = 0) -> TransitionAnswer:
        async with store.transaction() as tx:
            task, events = await handlers.start_task(task_id, actor=caller.actor, tx=tx, clock=clock)
            await _save_request(tx, events, caller)
        task = await _settled(task, {TaskStatus.RUNNING, *FINAL}, wait)
        response.status_code = 202 if task.status is TaskStatus.PENDING else 200
        return _transition(task)

    @router.post("/tasks/{task_id}/cancel", summary="Ask a task to end for good", responses=ACCEPTED)
    async def cancel_task(
        task_id: TaskId, caller: Calling, response: Response, wait: Wait = 0
    ) -> TransitionAnswer:
        async with store.transaction() as tx:
            task, events = await handlers.cancel_task(task_id, actor=caller.actor, tx=tx, clock=clock)
            await _save_request(tx, events, caller)
        task = await _settled(task, set(FINAL), wait)
        response.status_code = 200 if task.status in FINAL else 202
        return _transition(task)

    async def _save_request(tx: Transaction, events: list[Any], caller: Caller) -> None:
        await emit(tx, events, source="task", cause=caller.cause, clock=clock)

    async def _settled(task: TaskDocument, wanted: set[TaskStatus], wait: float) -> TaskDocument:
        deadline = clock.monotonic() + wait
        while task.status not in wanted and (left := deadline - clock.monotonic()) > 0:
            committed = asyncio.ensure_future(store.next_commit())
            task = await get_task(store, task.task_id)
            if task.status not in wanted:
                await asyncio.wait([committed], timeout=min(left, 1.0))
            committed.cancel()
        return task

    return router


def _file_routes(blobs: BlobStore, settings: TaskSettings) -> APIRouter:
    router = APIRouter(tags=["files"])

    @router.post(
        "/files",
        status_code=201,
        summary="Upload a file's content; the body is the file",
        openapi_extra={"requestBody": {"content": {"application/octet-stream": {}}, "required": True}},
    )
    async def upload(request: Request) -> StoredFile:
        blob = await blobs.write(request.stream(), limit=settings.file_limit)
        return StoredFile(sha256=blob.sha256, size=blob.size)

    @router.get(
        "/files/{sha256}",
        summary="Download a file's content",
        response_class=StreamingResponse,
        responses=CONTENT,
    )
    async def download(sha256: str) -> StreamingResponse:
        size = await _size(sha256)
        headers = {"Content-Length": str(size), "ETag": f'"{sha256}"'}
        return StreamingResponse(blobs.read(sha256), media_type="application/octet-stream", headers=headers)

    @router.head("/files/{sha256}", summary="Ask whether a content is there", response_class=Response)
    async def has_file(sha256: str) -> Response:
        size = await _size(sha256)
        return Response(status_code=status.HTTP_200_OK, headers={"Content-Length": str(size)})

    async def _size(sha256: str) -> int:
        size = await blobs.size(sha256)
        if size is None:
            raise NotFound(f"no content with sha256 {sha256[:80]} was uploaded")
        return size

    return router


async def _page(store: DocumentStore, where: Where, limit: int, cursor: str | None) -> TaskPage:
    page = await store.find(TASKS.name, where, sort="-created_at", limit=limit, cursor=cursor)
    tasks = [TaskDocument.model_validate(item) for item in page.items]
    return TaskPage(
        tasks=[await views.task_summary(store, task) for task in tasks],
        total=await store.count(TASKS.name, where),
        next_cursor=page.next_cursor,
    )


def _transition(task: TaskDocument) -> TransitionAnswer:
    return TransitionAnswer(
        task_id=task.task_id,
        status=task.status,
        phase=task.phase,
        reason=task.reason,
        started_at=task.started_at,
        cancelled_at=task.ended_at if task.status is TaskStatus.CANCELLED else None,
    )


def _same_answer(seen: SeenRequest, request_hash: str, key: str) -> TaskCreatedAnswer:
    if seen.request_hash != request_hash:
        error = FieldError(path="Idempotency-Key", message="use a new key for a new request")
        raise InvalidInput(f"Idempotency-Key {key[:40]!r} was used for another request", [error])
    return TaskCreatedAnswer.model_validate(seen.answer)
