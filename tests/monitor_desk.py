"""How tests drive the monitor: a task whose every word they speak, and the service as a client sees it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect

from tests.harness import API, TOKEN, Bus, ServiceProcess, eventually, listening
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, AttemptStarted, CheckpointSaved, Outcome
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.queue import Placement, PlacementAssigned, PlacementState, WorkerLost
from trainwright.contracts.task import TaskCreated, TaskDocument, TaskPhase, TaskStatus, TaskStatusChanged
from trainwright.contracts.task_config import TaskConfig


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

    async def saved(self, attempt: int, version: int, resume_step: int = 0) -> None:
        await self._bus.say(CheckpointSaved(attempt=self._attempt(attempt, version, resume_step)))

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


@asynccontextmanager
async def running_monitor(process: ServiceProcess, kafka: str) -> AsyncIterator[Monitor]:
    """Give the running monitor once it is ready."""
    await process.ready()
    async with process.client() as http, listening(kafka) as bus:
        yield Monitor(process, http, bus)
