"""The result service's HTTP edge: checkpoints, reports, model versions, their files."""

import re
from collections.abc import AsyncIterator
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Path, Query, Response
from fastapi.responses import HTMLResponse, StreamingResponse

from services.result import store
from services.result.domain import checkpoint_list, parse_address
from services.result.report.page import ended_page
from services.result.settings import ResultSettings
from trainwright.contracts.attempt import BundleFile
from trainwright.contracts.base import Contract, nearest
from trainwright.contracts.checkpoint import CheckpointList
from trainwright.contracts.errors import Conflict, NotFound, Unavailable
from trainwright.contracts.result import ModelPage, ModelVersion
from trainwright.contracts.task import FINAL, TaskDocument, TaskStatus
from trainwright.runtime.waiting import becomes, is_known
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore

TaskId = Annotated[str, Path(max_length=100, examples=["task-0123456789ab"])]
Address = Annotated[str, Path(max_length=2000, examples=["store/S001_all/tcn/v1"])]

PAGE_HEADERS = {
    # A report holds what people wrote. It is escaped, and if that ever failed nothing of it could run or call out.
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox",
    "X-Content-Type-Options": "nosniff",
}
MEDIA_TYPES = {"png": "image/png", "json": "application/json", "csv": "text/csv", "txt": "text/plain"}
HTML: dict[int | str, dict[str, Any]] = {
    200: {"description": "A self-contained page", "content": {"text/html": {}}},
    409: {"description": "The task has not ended"},
}
FILE: dict[str, Any] = {
    "summary": "Download a file of a model version",
    "response_class": StreamingResponse,
    "responses": {
        200: {
            "description": "The file; its type follows from its name",
            "content": {"application/octet-stream": {}},
        }
    },
}


class ModelFiles(Contract):
    """`GET /models/{model_id}/files`."""

    model_id: str
    files: dict[str, BundleFile]


def build_router(documents: DocumentStore, blobs: BlobStore, settings: ResultSettings) -> APIRouter:
    """Return the routes of checkpoints, reports and models."""
    router = APIRouter()
    router.include_router(_checkpoint_routes(documents))
    router.include_router(_report_routes(documents, blobs, settings))
    router.include_router(_model_routes(documents, blobs))
    return router


async def _known_task(documents: DocumentStore, task_id: str) -> TaskDocument:
    async def check() -> bool:
        return await store.find_task(documents, task_id) is not None

    if not await is_known(task_id, check, documents):
        raise NotFound(f"there is no task {task_id!r}")
    task = await store.find_task(documents, task_id)
    assert task is not None
    return task


def _checkpoint_routes(documents: DocumentStore) -> APIRouter:
    router = APIRouter(tags=["checkpoints"])

    @router.get("/tasks/{task_id}/checkpoints", summary="A task's checkpoints, newest first")
    async def checkpoints(task_id: TaskId) -> CheckpointList:
        """Every checkpoint that was stored, with its step, score and size.

        Those that are `kept` can be gone on from; the files of the others are deleted.
        """
        task = await _known_task(documents, task_id)
        return checkpoint_list(task, await store.checkpoints_of(documents, task_id))

    return router


def _report_routes(documents: DocumentStore, blobs: BlobStore, settings: ResultSettings) -> APIRouter:
    router = APIRouter(tags=["reports"])

    async def ended(task_id: str) -> TaskDocument:
        task = await _known_task(documents, task_id)
        if task.status not in FINAL:
            where = f"{task.status} ({task.phase})" + (f": {task.reason}" if task.reason else "")
            raise Conflict(f"{task_id} is {where}; its report is rendered when it has ended")
        return task

    async def rendered(task_id: str) -> ModelVersion:
        async def check() -> bool:
            model = await store.version_of_task(documents, task_id)
            if model is None or model.report:
                return model is not None
            render = await store.find_render(documents, model.model_id)
            return render is None or render.state == "failed"

        await becomes(check, documents, settings.report_wait)
        model = await store.version_of_task(documents, task_id)
        if model is None:
            raise Unavailable(f"the model version of {task_id} is not registered yet; try again")
        if model.report is None:
            render = await store.find_render(documents, model.model_id)
            why = f"could not be rendered: {render.error}" if render and render.error else "is being rendered"
            raise Unavailable(f"the report of {model.model_id} {why}")
        return model

    async def without_model(task: TaskDocument) -> Response:
        attempts = await store.attempts_of(documents, task)
        return HTMLResponse(ended_page(task, attempts), headers=PAGE_HEADERS)

    @router.get("/tasks/{task_id}/report", summary="A task's report", response_class=HTMLResponse, responses=HTML)
    async def report(task_id: TaskId) -> Response:
        """The report of a task that completed, or what is known of one that failed or was cancelled.

        Self-contained: no script, nothing loaded from elsewhere. 409 while the task has not ended.
        """
        task = await ended(task_id)
        if task.status is not TaskStatus.COMPLETED:
            return await without_model(task)
        attempt = await store.find_attempt(documents, task_id, task.attempt)
        if attempt is not None and attempt.outcome is not None and attempt.bundle is None:
            return await without_model(task)
        model = await rendered(task_id)
        assert model.report is not None
        size = await blobs.size(model.report)
        if size is None:
            raise NotFound(f"the report of {model.model_id} is not stored any more")
        headers = {**PAGE_HEADERS, "Content-Length": str(size), "ETag": f'"{model.report}"'}
        return StreamingResponse(blobs.read(model.report), media_type="text/html; charset=utf-8", headers=headers)

    return router


def _model_routes(documents: DocumentStore, blobs: BlobStore) -> APIRouter:
    router = APIRouter(tags=["models"])

    @router.get("/models", summary="Model versions, newest first")
    async def list_models(
        recipe: Annotated[str | None, Query(max_length=300, description="Key of the recipe.")] = None,
        name: Annotated[str | None, Query(max_length=300, description="Name of the task.")] = None,
        identity: Annotated[str | None, Query(max_length=300, description="Model without its number.")] = None,
        task_id: Annotated[str | None, Query(max_length=300, description="The task that made it.")] = None,
        page: Annotated[int, Query(ge=1, le=10_000, description="Pages count from 1.")] = 1,
        page_size: Annotated[int, Query(ge=1, le=500, description="Models on a page.")] = 50,
    ) -> ModelPage:
        wanted = {"recipe": recipe, "task_name": name, "identity": identity, "task_id": task_id}
        where = {field: value for field, value in wanted.items() if value is not None}
        return await store.page_of_versions(documents, where, page, page_size)

    # A model id is a path, so these three overlap: whichever route takes a request, the address says what it is.
    async def answer(address: str) -> Response:
        model_id, name, of_files = parse_address(address)
        model = await store.get_version(documents, model_id)
        if not of_files:
            return Response(model.model_dump_json(), media_type="application/json")
        if name is None:
            listed = ModelFiles(model_id=model_id, files=model.files)
            return Response(listed.model_dump_json(), media_type="application/json")
        return await download(model, name)

    async def download(model: ModelVersion, name: str) -> Response:
        file = model.files.get(name)
        if file is None:
            hint = nearest(name, model.files) or f"; there are {', '.join(sorted(model.files)[:10]) or 'none'}"
            raise NotFound(f"{model.model_id} has no file {name[:200]!r}{hint}")
        if await blobs.size(file.sha256) is None:
            raise NotFound(f"the file {name!r} of {model.model_id} is not stored any more")
        return StreamingResponse(
            content(file),
            media_type=MEDIA_TYPES.get(name.rpartition(".")[2], "application/octet-stream"),
            headers=_file_headers(name, file),
        )

    async def content(file: BundleFile) -> AsyncIterator[bytes]:
        async for chunk in blobs.read(file.sha256):
            yield chunk

    @router.get("/models/{model_id:path}/files/{name:path}", **FILE)
    async def model_file(model_id: Address, name: Address) -> Response:
        return await answer(f"{model_id}/files/{name}")

    @router.get("/models/{model_id:path}/files", summary="Files of a model version", response_model=ModelFiles)
    async def model_files(model_id: Address) -> Response:
        return await answer(f"{model_id}/files")

    @router.get("/models/{model_id:path}", summary="A model version", response_model=ModelVersion)
    async def model(model_id: Address) -> Response:
        return await answer(model_id)

    return router


def _file_headers(name: str, file: BundleFile) -> dict[str, str]:
    base = re.sub(r"[\x00-\x1f\x7f]", "_", name.rpartition("/")[2]) or "file"
    return {
        "Content-Length": str(file.size),
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(base, safe='')}",
        "ETag": f'"{file.sha256}"',
        "X-Content-Type-Options": "nosniff",
    }
