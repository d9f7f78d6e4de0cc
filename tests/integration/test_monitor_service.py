"""The monitor as a process of its own: told by hand over real Kafka, asked over HTTP and a real WebSocket."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, connect

from tests.harness import API, TOKEN, Bus, ServiceProcess, eventually, listening, services
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, AttemptStarted, Outcome
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.queue import Placement, PlacementAssigned, PlacementState, WorkerLost
from trainwright.contracts.task import (
    TaskConfig,
    TaskCreated,
    TaskDocument,
    TaskPhase,
    TaskStatus,
    TaskStatusChanged,
)


class Story:
    """One task, every word about it spoken by the test."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._version = 0
        self.task_id = f"task-{uuid4().hex[:12]}"

    async def created(self) -> None:
        await self._task(TaskCreated, TaskStatus.PENDING, TaskPhase.NOT_STARTED)

    async def ended(self, status: TaskStatus = TaskStatus.COMPLETED) -> None:
        await self._task(TaskStatusChanged, status, TaskPhase.ENDED)

    async def placed(self, attempt: int, kind: type[PlacementAssigned | WorkerLost] = PlacementAssigned) -> None:
        self._version += 1
        placement = Placement(
            task_id=self.task_id,
            version=self._version,
            state=PlacementState.ASSIGNED,
            attempt=attempt,
            updated_at=datetime.now(UTC),
        )
        await self._bus.say(kind(placement=placement))

    async def started(self, attempt: int, resume_step: int = 0) -> None:
        await self._bus.say(AttemptStarted(attempt=self._attempt(attempt, 1, resume_step)))

    async def finished(self, attempt: int, final_step: int) -> None:
        document = self._attempt(attempt, 2, 0, outcome=Outcome.COMPLETED, final_step=final_step)
        await self._bus.say(AttemptEnded(attempt=document))

    async def logs(self, attempt: int, steps: Iterable[int], *, first: int = 0, offset: float = 0.0) -> None:
        points = [
            MetricPoint(n, 1.7e9 + n, step, {"loss": step + offset, "lr": 0.1})
            for n, step in enumerate(steps, first)
        ]
        await self._bus.say(MetricBatch(task_id=self.task_id, attempt=attempt, points=points))

    async def _task(self, kind: type[Any], status: TaskStatus, phase: TaskPhase) -> None:
        self._version += 1
        now = datetime.now(UTC)
        config = TaskConfig(recipe="script")
        task = TaskDocument(
            task_id=self.task_id,
            version=self._version,
            name="story",
            config=config,
            status=status,
            phase=phase,
            created_at=now,
            updated_at=now,
        )
        await self._bus.say(kind(task=task))

    def _attempt(self, attempt: int, version: int, resume_step: int, **fields: Any) -> AttemptDocument:
        return AttemptDocument(
            task_id=self.task_id,
            attempt=attempt,
            version=version,
            worker_id="worker-aaaaaaaaaaaa",
            incarnation="one",
            started_at=datetime.now(UTC),
            resume_step=resume_step,
            **fields,
        )


class Monitor:
    """The running monitor, as a client sees it."""

    def __init__(self, process: ServiceProcess, http: httpx.AsyncClient, bus: Bus) -> None:
        self.process, self.http, self.bus = process, http, bus

    def story(self) -> Story:
        return Story(self.bus)

    async def ask(self, story: Story, **query: Any) -> httpx.Response:
        return await self.http.get(f"/tasks/{story.task_id}/metrics", params=query)

    async def steps(self, story: Story, name: str = "loss", **query: Any) -> list[int]:
        answer = await self.ask(story, name=name, **query)
        assert answer.status_code == 200, answer.text
        return [step for step, _ in answer.json()["points"]]

    async def until(
        self, story: Story, wanted: Callable[[list[int]], bool] | list[int], **query: Any
    ) -> list[int]:
        """Wait for the steps of ``loss``."""
        check = wanted if callable(wanted) else lambda steps: steps == wanted

        async def there() -> list[int] | None:
            answer = await self.ask(story, name="loss", **query)
            steps = [step for step, _ in answer.json().get("points", [])]
            return [*steps, -1] if answer.status_code == 200 and check(steps) else None

        found = await eventually(there, within=15, what=f"the steps of {story.task_id}")
        return list(found)[:-1]

    @asynccontextmanager
    async def stream(self, story: Story, **options: Any) -> AsyncIterator[ClientConnection]:
        url = self.process.url.replace("http", "ws") + f"{API}/tasks/{story.task_id}/monitor"
        headers = {"x-trainwright-internal": TOKEN}
        async with connect(url, additional_headers=headers, proxy=None, **options) as socket:
            yield socket


async def lines(
    socket: ClientConnection, until: Callable[[dict[str, Any]], bool], within: float = 10
) -> list[Any]:
    """Return the lines up to the first that is wanted."""
    found: list[dict[str, Any]] = []
    async with asyncio.timeout(within):
        while not found or not until(found[-1]):
            found.append(json.loads(await socket.recv()))
    return found


def is_event(name: str) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line.get("event") == name


def is_step(step: int) -> Callable[[dict[str, Any]], bool]:
    return lambda line: line.get("step") == step and "event" not in line


@pytest.fixture(scope="module")
def process(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    folder: Path = tmp_path_factory.mktemp("monitor")
    settings = {"MONITOR_SLOW_SECONDS": "0.5", "MONITOR_SLOW_KEEPS": "50", "MONITOR_HEARTBEAT_SECONDS": "0.7"}
    with services(["monitor"], kafka, folder, **settings) as running:
        yield running


@pytest.fixture
async def monitor(process: ServiceProcess, kafka: str) -> AsyncIterator[Monitor]:
    await process.ready()
    async with process.client() as http, listening(kafka) as bus:
        yield Monitor(process, http, bus)


async def test_a_run_is_seen_by_step_and_in_short(monitor: Monitor) -> None:
    story = monitor.story()
    await story.created()
    await story.logs(1, range(1, 6))
    assert await monitor.until(story, [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5]
    assert await monitor.steps(story, start_step=2, end_step=3) == [2, 3]
    overview = (await monitor.ask(story)).json()
    assert overview == {"task_id": story.task_id, "latest": {"loss": 5.0, "lr": 0.1}, "names": ["loss", "lr"]}


async def test_a_task_without_metrics_is_empty_and_an_unknown_one_is_not_found(monitor: Monitor) -> None:
    story = monitor.story()
    assert (await monitor.ask(story)).status_code == 404
    await story.created()
    answer = await monitor.ask(story)  # at once: what was created a moment ago is waited for
    assert answer.status_code == 200, answer.text
    assert answer.json()["names"] == []
    assert (await monitor.ask(story, name="loss")).json()["points"] == []
    story.task_id = "no such task"
    assert (await monitor.ask(story)).status_code == 404


async def test_repeats_are_stored_once(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, range(10))
    await story.logs(1, range(10))
    await story.logs(1, range(5, 12), first=5)
    assert await monitor.until(story, lambda steps: 11 in steps) == list(range(12))


async def test_a_lost_worker_that_still_sends_is_not_shown(monitor: Monitor) -> None:
    story = monitor.story()
    await story.placed(1)
    await story.started(1)
    await story.logs(1, range(10))
    await monitor.until(story, list(range(10)))
    await story.placed(1, WorkerLost)
    await story.placed(2)
    await story.started(2)
    await story.logs(2, range(3), offset=0.5)
    await monitor.until(story, [0, 1, 2])
    await story.logs(1, range(10, 20), first=10)
    await story.logs(2, range(3, 5), first=3)
    assert await monitor.until(story, lambda steps: 4 in steps) == [0, 1, 2, 3, 4]
    points = (await monitor.ask(story, name="loss")).json()["points"]
    assert points[2] == [2, 2.5]


async def test_a_resumed_attempt_keeps_what_came_before(monitor: Monitor) -> None:
    story = monitor.story()
    await story.started(1)
    await story.logs(1, range(1, 31))
    await story.started(2, resume_step=20)
    await story.logs(2, range(21, 26), offset=0.5)
    assert await monitor.until(story, list(range(1, 26))) == list(range(1, 26))


async def test_a_long_series_is_reduced_and_keeps_its_ends_and_its_nan(monitor: Monitor) -> None:
    story = monitor.story()
    points = [MetricPoint(n, 0.0, n, {"loss": math.sin(n / 100)}) for n in range(5000)]
    points[2500] = MetricPoint(2500, 0.0, 2500, {"loss": math.nan})
    points[2600] = MetricPoint(2600, 0.0, 2600, {"loss": math.inf})
    for start in range(0, 5000, 1000):
        batch = MetricBatch(task_id=story.task_id, attempt=1, points=points[start : start + 1000])
        await monitor.bus.say(batch)
    await monitor.until(story, lambda steps: len(steps) == 5000)
    found = (await monitor.ask(story, name="loss", max_points=100)).json()["points"]
    assert 50 <= len(found) <= 100
    assert (found[0][0], found[-1][0]) == (0, 4999)
    assert [2500, "NaN"] in found
    assert [2600, "Infinity"] in found
    for most in (2, 3, 4, 5):
        few = await monitor.steps(story, max_points=most)
        assert 2 <= len(few) <= most
        assert (few[0], few[-1]) == (0, 4999)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"name": "loss", "start_step": "ten"}, "start_step"),
        ({"name": "loss", "start_step": -1}, "start_step"),
        ({"name": "loss", "end_step": -5}, "end_step"),
        ({"name": "loss", "start_step": 10, "end_step": 9}, "end_step"),
        ({"name": "loss", "max_points": 1}, "max_points"),
        ({"name": "loss", "max_points": 1_000_000}, "max_points"),
        ({"name": "loss", "start_step": 2**70}, "start_step"),
        ({"name": "x" * 300}, "name"),
        ({"max_point": 5}, "max_point"),
    ],
)
async def test_bad_questions_name_the_field(monitor: Monitor, query: dict[str, Any], field: str) -> None:
    story = monitor.story()
    await story.created()
    answer = await monitor.ask(story, **query)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in answer.json()["errors"]] == [field]


async def test_an_empty_parameter_is_one_left_out(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [1, 2])
    await monitor.until(story, [1, 2])
    answer = await monitor.ask(story, name="loss", start_step="", end_step="", max_points="")
    assert answer.json()["points"] == [[1, 1.0], [2, 2.0]]


async def test_an_unknown_name_is_told_the_nearest(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [1])
    await monitor.until(story, [1])
    answer = await monitor.ask(story, name="los")
    assert answer.status_code == 404
    assert "did you mean 'loss'?" in answer.json()["detail"]


async def test_a_stream_gives_history_then_what_comes_then_the_end(monitor: Monitor) -> None:
    story = monitor.story()
    await story.created()
    await story.logs(1, [1, 2, 3])
    await monitor.until(story, [1, 2, 3])
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe", "metrics": ["loss"]}')
        history = await lines(socket, is_step(3))
        assert [(line["step"], line["metrics"]) for line in history] == [
            (n, {"loss": float(n)}) for n in (1, 2, 3)
        ]
        await story.logs(1, [4], first=3)
        assert [line["step"] for line in await lines(socket, is_step(4), within=2)] == [4]
        await story.finished(1, final_step=5)
        await story.ended()
        await story.logs(1, [5], first=4)  # the topics race: the end is known before the last step
        rest = [line for line in await lines(socket, is_event("end")) if line.get("event") != "heartbeat"]
        assert [line.get("step") for line in rest] == [5, None]
        assert rest[-1]["status"] == "completed"
        await socket.wait_closed()
        assert socket.close_code == 1000


async def test_a_stream_goes_on_at_a_cursor_without_gap_or_repeat(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, range(1, 101))
    await monitor.until(story, lambda steps: len(steps) == 100)
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe"}')
        seen = await lines(socket, is_step(40))
    cursor = seen[-1]["seq"]
    await story.logs(1, range(101, 121), first=100)
    async with monitor.stream(story) as socket:
        await socket.send(json.dumps({"action": "subscribe", "cursor": cursor}))
        rest = await lines(socket, is_step(120))
    assert [line["step"] for line in seen + rest if "step" in line] == list(range(1, 121))


async def test_a_stream_is_told_of_a_rewind(monitor: Monitor) -> None:
    story = monitor.story()
    await story.started(1)
    await story.logs(1, range(1, 11))
    await monitor.until(story, lambda steps: len(steps) == 10)
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe", "metrics": ["loss"]}')
        before = await lines(socket, is_step(10))
        assert not any("event" in line for line in before)
        await story.placed(2)
        await story.started(2, resume_step=6)
        await story.logs(1, [11], first=10)  # a zombie
        await story.logs(2, [7, 8], offset=0.5)
        after = [line for line in await lines(socket, is_step(8)) if line.get("event") != "heartbeat"]
    assert (after[0]["event"], after[0]["attempt"], after[0]["step"]) == ("rewind", 2, 6)
    assert [(line["step"], line["attempt"]) for line in after[1:]] == [(7, 2), (8, 2)]
    async with monitor.stream(story) as socket:  # who comes back from before the rewind is told, too
        await socket.send(json.dumps({"action": "subscribe", "cursor": before[-1]["seq"]}))
        again = [line for line in await lines(socket, is_step(8)) if line.get("event") != "heartbeat"]
    assert [line.get("event") for line in again] == ["rewind", None, None]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("not json", "body"),
        ("[]", "action"),
        ('{"action": "subscrib"}', "action"),
        ('{"action": "subscribe", "metrics": "loss"}', "metrics"),
        ('{"action": "subscribe", "cursor": -1}', "cursor"),
        ('{"action": "subscribe", "cursor": 999999999}', "cursor"),
        ('{"action": "subscribe", "metric": ["loss"]}', "metric"),
        (b"\x00\x01", "body"),
    ],
)
async def test_a_bad_message_is_answered_and_the_stream_stays(
    monitor: Monitor, message: str | bytes, path: str
) -> None:
    story = monitor.story()
    await story.logs(1, [1])
    await monitor.until(story, [1])
    async with monitor.stream(story) as socket:
        await socket.send(message)
        (error,) = [line for line in await lines(socket, is_event("error")) if line["event"] == "error"]
        assert error["code"] == "invalid_input"
        assert [field["path"] for field in error["errors"]] in ([path], ["action"])
        await socket.send('{"action": "subscribe"}')
        assert await lines(socket, is_step(1))


async def test_unsubscribed_is_silent_but_alive(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [1])
    await monitor.until(story, [1])
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe"}')
        await lines(socket, is_step(1))
        await socket.send('{"action": "unsubscribe"}')
        await asyncio.sleep(0.2)
        await story.logs(1, [2], first=1)
        await monitor.until(story, [1, 2])
        assert [line["event"] for line in await lines(socket, is_event("heartbeat"))] == ["heartbeat"]


async def test_an_unknown_task_is_said_on_the_stream(monitor: Monitor) -> None:
    async with monitor.stream(monitor.story()) as socket:
        assert json.loads(await socket.recv())["code"] == "not_found"
        await socket.wait_closed()
        assert socket.close_code == 4404


async def test_a_slow_reader_gets_a_gap_and_not_a_queue(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [0])
    wide = {f"metric-{n:03d}-{'x' * 100}": 0.123456789 for n in range(200)}
    for start in range(1, 1501, 25):
        points = [MetricPoint(n, 0.0, n, {"loss": 1.0, **wide}) for n in range(start, start + 25)]
        await monitor.bus.say(MetricBatch(task_id=story.task_id, attempt=1, points=points))
    await monitor.until(story, lambda steps: len(steps) == 1501)
    async with monitor.stream(story, max_queue=1, compression=None) as socket, monitor.stream(story) as fast:
        await socket.send('{"action": "subscribe"}')
        await fast.send('{"action": "subscribe", "metrics": ["loss"]}')
        assert len(await lines(fast, is_step(1500))) == 1501
        await asyncio.sleep(1.5)  # reads nothing
        found = await lines(socket, is_step(1500), within=30)
    (gap,) = [line for line in found if line.get("event") == "gap"]
    assert gap["seq"] > gap["from"]
    steps = [line["step"] for line in found if "event" not in line]
    assert 50 <= len(steps) < 1500
    assert steps[-50:] == list(range(1451, 1501))


async def test_all_is_there_after_a_kill(kafka: str, tmp_path: Path, monitor: Monitor) -> None:
    story = monitor.story()
    await story.created()
    await story.logs(1, range(50))
    await monitor.until(story, lambda steps: len(steps) == 50)
    monitor.process.stop(kill=True)
    await story.logs(1, range(40, 60), first=40)
    monitor.process.start()
    await monitor.process.ready()
    assert await monitor.until(story, lambda steps: 59 in steps) == list(range(60))
