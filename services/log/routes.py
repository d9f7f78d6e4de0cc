"""The log service's HTTP edge: search of records."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from services.log.store import task_exists
from trainwright.contracts.base import Request, Timestamp
from trainwright.contracts.errors import FieldError, InvalidInput, NotFound
from trainwright.contracts.log import LogLevel, LogPage
from trainwright.runtime.waiting import is_known
from trainwright.storage.document import DocumentStore, decode_cursor, encode_cursor
from trainwright.storage.records import Records, Search

DEFAULT_LIMIT = 100

TaskId = Annotated[str, Path(max_length=100, examples=["task-0123456789ab"])]
Absent = BeforeValidator(lambda value: None if value == "" else value)
"""An empty query parameter is one that was left out."""
Upper = BeforeValidator(lambda value: value.upper() or None if isinstance(value, str) else value)

PAGE = {
    "entries": [
        {
            "time": "2025-06-01T12:00:00.000000Z",
            "level": "INFO",
            "message": "step 10 loss 0.31",
            "extra": {"attempt": 1, "stream": "stdout"},
        }
    ],
    "next_cursor": "WzEyLCIiLCJsb2dzIl0",
}
EXAMPLES: dict[int | str, dict[str, Any]] = {200: {"content": {"application/json": {"example": PAGE}}}}


class LogQuery(Request):
    """Which records to return."""

    level: Annotated[LogLevel | None, Upper] = Field(None, description="This level and graver ones.")
    keyword: Annotated[str | None, Absent] = Field(
        None,
        max_length=500,
        description="Text that the message holds; case does not matter, nothing is a wildcard.",
    )
    start_time: Annotated[Timestamp | None, Absent] = Field(
        None, description="From this moment on; UTC if unsaid."
    )
    end_time: Annotated[Timestamp | None, Absent] = Field(None, description="Up to this moment, included.")
    rank: Annotated[int | None, Absent] = Field(
        None, ge=0, description="Of a task on several workers, only this one's; one worker alone is rank 0."
    )
    limit: Annotated[int | None, Absent] = Field(None, ge=1, le=1000, description=f"{DEFAULT_LIMIT} by default.")
    cursor: Annotated[str | None, Absent] = Field(
        None, max_length=500, description="`next_cursor` of another page."
    )

    @field_validator("end_time")
    @classmethod
    def _not_before_start(cls, end: Timestamp | None, info: ValidationInfo) -> Timestamp | None:
        start = info.data.get("start_time")
        if end is not None and start is not None and end < start:
            raise ValueError("is before start_time")
        return end


def build_router(store: DocumentStore, records: Records) -> APIRouter:
    """Return the routes of logs."""
    router = APIRouter(tags=["logs"])

    @router.get("/tasks/{task_id}/logs", summary="A task's log records, oldest first", responses=EXAMPLES)
    async def logs(task_id: TaskId, query: Annotated[LogQuery, Query()]) -> LogPage:
        """All attempts' records in the order of their arrival; `extra.attempt` and `extra.stream` say whose, and
        `extra.rank` where several workers run the task.

        `next_cursor` is there at the end, too: asked again later it gives what came since. It is null only while
        the task has no records.
        """

        async def known() -> bool:
            return await task_exists(store, task_id) or await records.known(task_id)

        if not await is_known(task_id, known, store):
            raise NotFound(f"there is no task {task_id!r}")
        search = Search(query.level, query.keyword, query.start_time, query.end_time, query.rank)
        after = 0 if query.cursor is None else read_cursor(query.cursor, task_id)
        found = await records.find(task_id, search, cursor=after, limit=query.limit or DEFAULT_LIMIT)
        next_cursor = cursor_at(found.cursor, task_id) if found.cursor or query.cursor else None
        return LogPage(entries=found.entries, next_cursor=next_cursor)

    return router


def cursor_at(position: int, task_id: str) -> str:
    """Return the cursor of a position in a task's records."""
    return encode_cursor(position, "", f"logs of {task_id}")


def read_cursor(cursor: str, task_id: str) -> int:
    """Return the position that a cursor stands for.

    Raises:
        InvalidInput: It is not a cursor of this task's records.
    """
    position, _ = decode_cursor(cursor, f"logs of {task_id}")
    if not isinstance(position, int) or position < 0:
        raise InvalidInput(f"cursor {cursor[:40]!r} is damaged", [FieldError(path="cursor", message="damaged")])
    return position
