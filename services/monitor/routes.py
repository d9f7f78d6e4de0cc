"""The monitor's HTTP edge: history of metrics, and their live stream."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response, WebSocket
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from services.monitor.domain import reduced
from services.monitor.settings import DEFAULT_POINTS, MOST_POINTS, MonitorSettings
from services.monitor.store import find_watched
from services.monitor.stream import Stream, refuse
from services.monitor.tails import Tails
from trainwright.contracts.base import Request, nearest
from trainwright.contracts.errors import FieldError, NotFound
from trainwright.contracts.metric import MetricOverview, MetricSeries
from trainwright.runtime.clock import Clock
from trainwright.runtime.waiting import is_known
from trainwright.storage.document import DocumentStore
from trainwright.storage.series import Series

TaskId = Annotated[str, Path(max_length=100, examples=["task-0123456789ab"])]
MOST_STEP = 2**63 - 1
Absent = BeforeValidator(lambda value: None if value == "" else value)
"""An empty query parameter is one that was left out."""

SERIES = {"task_id": "task-0123456789ab", "name": "loss", "points": [[1, 0.93], [2, 0.71], [3, "NaN"]]}
OVERVIEW = {"task_id": "task-0123456789ab", "latest": {"loss": 0.31, "lr": 0.001}, "names": ["loss", "lr"]}
EXAMPLES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One metric by step, or the overview",
        "content": {
            "application/json": {
                "examples": {"with a name": {"value": SERIES}, "without": {"value": OVERVIEW}},
            }
        },
    }
}


class MetricQuery(Request):
    """What of a task's metrics to return."""

    name: Annotated[str | None, Absent] = Field(
        None, max_length=200, description="One metric; without: all in short."
    )
    start_step: Annotated[int | None, Absent] = Field(None, ge=0, le=MOST_STEP, description="First step.")
    end_step: Annotated[int | None, Absent] = Field(None, ge=0, le=MOST_STEP, description="Last step.")
    max_points: Annotated[int | None, Absent] = Field(
        None,
        ge=2,
        le=MOST_POINTS,
        description=f"Reduce a longer series to this many ({DEFAULT_POINTS} by default).",
    )

    @field_validator("end_step")
    @classmethod
    def _not_before_start(cls, end_step: int | None, info: ValidationInfo) -> int | None:
        start_step = info.data.get("start_step")
        if end_step is not None and start_step is not None and end_step < start_step:
            raise ValueError(f"is below start_step, which is {start_step}")
        return end_step


def build_router(store: DocumentStore, series: Series, settings: MonitorSettings, clock: Clock) -> APIRouter:
    """Return the routes of metrics."""
    router = APIRouter(tags=["metrics"])
    tails = Tails(store, series)

    async def known(task_id: str) -> bool:
        async def check() -> bool:
            return await find_watched(store, task_id) is not None or await series.known(task_id)

        return await is_known(task_id, check, store)

    @router.get(
        "/tasks/{task_id}/metrics",
        summary="A task's metrics: one by step, or names and latest values",
        response_model=MetricSeries | MetricOverview,
        responses=EXAMPLES,
    )
    async def metrics(task_id: TaskId, query: Annotated[MetricQuery, Query()]) -> Response:
        """Only what counts is returned: an attempt that resumed from a step replaces what came after that step.

        Values that are no numbers are the texts `NaN`, `Infinity` and `-Infinity`.
        """
        if not await known(task_id):
            raise NotFound(f"there is no task {task_id!r}")
        if query.name is None:
            answer = await overview(task_id)
        else:
            answer = await one(task_id, query.name, query)
        return Response(answer.model_dump_json(), media_type="application/json")

    async def overview(task_id: str) -> MetricOverview | MetricSeries:
        latest = await series.latest(task_id)
        return MetricOverview(task_id=task_id, latest=latest, names=list(latest))

    async def one(task_id: str, name: str, query: MetricQuery) -> MetricSeries:
        names = await series.names(task_id)
        if names and name not in names:
            more = f" and {len(names) - 10} more" if len(names) > 10 else ""
            hint = nearest(name, names) or f"; there are {', '.join(names[:10])}{more}"
            wrong = f"no metric {name!r}"
            raise NotFound(f"{task_id} has {wrong}{hint}", [FieldError(path="name", message=wrong)])
        points = await series.points(task_id, name, query.start_step, query.end_step)
        return MetricSeries(task_id=task_id, name=name, points=reduced(points, query.max_points or DEFAULT_POINTS))

    @router.websocket("/tasks/{task_id}/monitor")
    async def monitor(socket: WebSocket, task_id: str) -> None:
        if not await known(task_id):
            await refuse(socket, f"there is no task {task_id!r}")
            return
        await socket.accept()
        await Stream(socket, task_id, tails=tails, settings=settings, clock=clock).run()

    return router
