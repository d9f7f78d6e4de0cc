"""Files that tasks need, by content hash."""

from typing import Any

from fastapi import APIRouter, Request, Response, status
from fastapi.responses import StreamingResponse

from services.task.settings import TaskSettings
from trainwright.contracts.errors import NotFound
from trainwright.contracts.task import StoredFile
from trainwright.storage.blob import BlobStore

CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"description": "The content", "content": {"application/octet-stream": {}}}
}


def file_routes(blobs: BlobStore, settings: TaskSettings) -> APIRouter:
    """Return the routes of files."""
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
