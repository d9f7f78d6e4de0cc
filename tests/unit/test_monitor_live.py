"""A live stream over the service's own routes and store, which may go away beneath it."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Callable, MutableMapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from fastapi import FastAPI

from services.monitor.handlers import Handlers
from services.monitor.routes import build_router
from services.monitor.settings import MonitorSettings
from services.monitor.store import TASKS
from services.monitor.stream import GOING_AWAY
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.runtime.clock import SystemClock
from trainwright.storage.sqlite import SqliteStore
from trainwright.storage.sqlite_series import SCHEMA, SqliteSeries

TASK = "task-0123456789ab"
CLOCK = SystemClock()
T = TypeVar("T")


class Sick(SqliteStore):
    """SQLite that cannot be read while it is sick."""

    sick = False

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        if self.sick:
            raise StoreUnavailable("as planned")
        return await super().read(question)


class Desk:
    """A monitor that is told points, and clients that listen."""

    def __init__(self, folder: Path) -> None:
        self.store = Sick(folder / "monitor.db", (TASKS,), SCHEMA)
        self.series = SqliteSeries(self.store)
        self.app = FastAPI()
        self.app.include_router(build_router(self.store, self.series, MonitorSettings(), CLOCK))

    async def log(self, *points: MetricPoint) -> None:
        async with self.store.transaction() as tx:
            batch = MetricBatch(task_id=TASK, attempt=1, points=list(points))
            await Handlers(self.series).on_metric_batch(batch, tx=tx, clock=CLOCK)

    @asynccontextmanager
    async def listening(self, **wish: Any) -> AsyncIterator["asyncio.Queue[dict[str, Any]]"]:
        """Open a stream as a server does, and subscribe; what is sent comes in order, and a close at its end."""
        sent: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        words = [{"type": "websocket.connect"}]
        words.append({"type": "websocket.receive", "text": json.dumps({"action": "subscribe", **wish})})

        async def receive() -> dict[str, Any]:
            if not words:
                await asyncio.Event().wait()
            return words.pop(0)

        async def send(message: MutableMapping[str, Any]) -> None:
            if message["type"] != "websocket.accept":
                sent.put_nowait(json.loads(message["text"]) if "text" in message else dict(message))

        scope = {
            "type": "websocket", "path": f"/tasks/{TASK}/monitor", "query_string": b"", "headers": [],
            "subprotocols": [],
        }  # fmt: skip
        serving = asyncio.create_task(self.app(scope, receive, send))
        try:
            yield sent
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.store.open()
    yield made
    await made.store.close()


async def test_a_stream_whose_store_goes_says_so_and_its_client_goes_on_by_its_cursor(desk: Desk) -> None:
    await desk.log(MetricPoint(1, 1.7e9, 1, {"loss": 0.5}))
    async with asyncio.timeout(90), desk.listening() as sent:
        first = await sent.get()
        assert (first["step"], first["metrics"]) == (1, {"loss": 0.5})
        desk.store.sick = True
        error, close = await sent.get(), await sent.get()
    assert (error["event"], error["code"], error["detail"]) == ("error", "store_unavailable", "as planned")
    assert (close["type"], close["code"]) == ("websocket.close", GOING_AWAY)
    desk.store.sick = False
    await desk.log(MetricPoint(2, 1.7e9, 2, {"loss": 0.4}))
    async with asyncio.timeout(90), desk.listening(cursor=first["seq"]) as sent:
        assert (await sent.get())["step"] == 2


@pytest.mark.parametrize("time", [1e20, -1e20])
async def test_a_point_whose_time_is_none_is_told_without_it(desk: Desk, time: float) -> None:
    """A run's clock may say anything: no reason to end its stream."""
    await desk.log(MetricPoint(1, time, 1, {"loss": 0.5}), MetricPoint(2, 1.7e9, 2, {"loss": 0.4}))
    async with asyncio.timeout(90), desk.listening() as sent:
        lines = [await sent.get(), await sent.get()]
    assert [line["time"] for line in lines] == [None, "2023-11-14T22:13:20.000000Z"]
    assert [line["metrics"] for line in lines] == [{"loss": 0.5}, {"loss": 0.4}]
