"""The task service over real Kafka and HTTP; scheduler and worker are spoken by hand. Pause, resume, repair."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, AttemptStarted, CheckpointSaved, Outcome
from trainwright.contracts.base import Event
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.pulse import AttemptProgressed
from trainwright.contracts.queue import Placement, PlacementAssigned, PlacementState, WorkerLost
from trainwright.contracts.task import (
    TaskEvent,
    TaskPhase,
    TaskReady,
    TaskResourcesChanged,
    TaskRetryScheduled,
    TaskStopRequested,
)

WORKER = "worker-aaaaaaaaaaaa"
AT_20 = {"current_step": 20, "total_steps": None, "percentage": None}
MORNING = datetime(2026, 1, 1, tzinfo=UTC)


class Story:
    """One task: what is asked of the service, and what scheduler and worker say."""

    def __init__(self, bus: Bus, api: httpx.AsyncClient, script: Path) -> None:
        self.bus = bus
        self.api = api
        self.script = script
        self.task_id = ""

    async def submitted(self, *, start: bool = True, **config: Any) -> None:
        parameters = {"path": str(self.script), **config.pop("parameters", {})}
        document = {"recipe": "script", "parameters": parameters, **config}
        answer = await self.api.post("/tasks", json={"config": document, "start": start})
        assert answer.status_code == 201, answer.text
        self.task_id = answer.json()["task_id"]

    async def running(self, attempt: int = 1, **config: Any) -> None:
        if attempt == 1:
            await self.submitted(**config)
        await self.placed(attempt)
        await self.until("pending", attempt=attempt, phase="starting")
        await self.bus.say(AttemptStarted(attempt=self.attempt(attempt, 1)))
        await self.until("running", attempt=attempt)

    async def placed(self, attempt: int) -> None:
        await self.bus.say(PlacementAssigned(placement=self.placement(attempt, PlacementState.ASSIGNED)))

    def placement(self, attempt: int, state: PlacementState, reason: str = "") -> Placement:
        return Placement(
            task_id=self.task_id,
            version=attempt * 10 + (state is PlacementState.RELEASED),
            state=state,
            attempt=attempt,
            worker_id=WORKER,
            incarnation="one",
            reason=reason,
            updated_at=datetime.now(UTC),
        )

    def attempt(self, attempt: int, version: int, *steps: int, **fields: Any) -> AttemptDocument:
        checkpoints = [
            Checkpoint(step=step, attempt=attempt, manifest=f"{step:064x}", saved_at=MORNING) for step in steps
        ]
        return AttemptDocument(
            task_id=self.task_id,
            attempt=attempt,
            version=version,
            worker_id=WORKER,
            incarnation="one",
            started_at=MORNING,
            checkpoints=checkpoints,
            **fields,
        )

    async def saved(self, attempt: int, *steps: int) -> None:
        await self.bus.say(CheckpointSaved(attempt=self.attempt(attempt, 1 + len(steps), *steps)))

    async def ended(self, attempt: int, outcome: Outcome, *steps: int, **fields: Any) -> None:
        over = {"outcome": outcome, "ended_at": MORNING + timedelta(minutes=5), **fields}
        await self.bus.say(AttemptEnded(attempt=self.attempt(attempt, 99, *steps, **over)))

    async def progressed(self, attempt: int, seq: int, phase: TaskPhase, **fields: Any) -> None:
        said = {"task_id": self.task_id, "attempt": attempt, "worker_id": WORKER, "seq": seq, "phase": phase}
        await self.bus.say(AttemptProgressed.model_validate({**said, "step": 20, **fields}))

    async def ask(self, wish: str, **params: Any) -> httpx.Response:
        return await self.api.post(f"/tasks/{self.task_id}/{wish}", params=params)

    async def show(self) -> dict[str, Any]:
        answer = await self.api.get(f"/tasks/{self.task_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    async def until(self, status: str, **fields: Any) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            task = await self.show()
            wanted = {"status": status, **fields}
            return task if {name: task[name] for name in wanted} == wanted else None

        task: dict[str, Any] = await eventually(reached, within=20, what=f"{self.task_id}: {status} {fields}")
        return task

    async def told(self, kind: type[TaskEvent]) -> TaskEvent:
        """Wait for an event of this task."""

        def found() -> TaskEvent | None:
            events = [event for event in self.bus.tape.of(kind) if event.task.task_id == self.task_id]
            return events[-1] if events else None

        event: TaskEvent = await eventually(found, within=20, what=kind.__name__)
        return event


@pytest.fixture(scope="module")
def process(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with services(["task"], kafka, tmp_path_factory.mktemp("task")) as process:
        yield process


@pytest.fixture
async def story(process: ServiceProcess, kafka: str, tmp_path: Path) -> AsyncIterator[Story]:
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    await process.ready()
    async with listening(kafka) as bus, process.client() as api:
        yield Story(bus, api, script)


async def test_a_running_task_is_paused_and_goes_on(story: Story) -> None:
    await story.running()
    await story.progressed(1, 1, TaskPhase.TRAINING, asks_stop=True)
    await story.saved(1, 10)
    await story.until("running", progress=AT_20)
    task = await eventually(lambda: _with_checkpoint(story, 10), within=10, what="a checkpoint")
    version = task["version"]

    paused = asyncio.create_task(story.ask("pause", wait=15))
    stop = await story.told(TaskStopRequested)
    assert (stop.task.stop, stop.task.phase, stop.task.version) == ("pause", "stopping", version + 1)
    assert (await story.show())["reason"] == "asked to pause; waiting for its worker"
    again = await story.ask("pause")
    assert (again.status_code, again.json()["phase"]) == (202, "stopping"), "asked twice, stopped once"
    await story.progressed(1, 2, TaskPhase.CHECKPOINTING)
    await story.until("running", phase="checkpointing", stop="pause")
    await story.ended(1, Outcome.PAUSED, 20, 10, final_step=20)

    answer = await paused
    assert (answer.status_code, answer.json()["status"], answer.json()["phase"]) == (200, "paused", "held")
    assert answer.json()["paused_at"]
    listed = (await story.api.get("/tasks", params={"status": "paused"})).json()["tasks"]
    assert story.task_id in [row["task_id"] for row in listed]
    refused = await story.ask("start")
    assert (refused.status_code, refused.json()["code"]) == (409, "illegal_transition")
    assert "is paused and cannot be started: resume it" in refused.json()["detail"]

    resumed = asyncio.create_task(story.ask("resume", wait=15))
    ready = await story.told(TaskReady)
    await eventually(lambda: _ready_with(story, 20), within=10, what="what to go on from")
    assert ready.task.phase == "waiting_slots"
    await story.running(2)
    answer = await resumed
    assert (answer.status_code, answer.json()["status"]) == (200, "running")
    assert answer.json()["resumed_at"] > answer.json()["paused_at"]
    history = (await story.api.get(f"/tasks/{story.task_id}/history")).json()["entries"]
    causes = [entry["cause"] for entry in history]
    assert causes == [
        *("created", "asked to run", "placed", "started"),
        *("pause requested", "paused", "resumed", "placed", "started"),
    ]


async def _with_checkpoint(story: Story, step: int) -> dict[str, Any] | None:
    task = await story.show()
    return task if [one["step"] for one in task["checkpoints"]][:1] == [step] else None


def _ready_with(story: Story, step: int) -> bool:
    ready = [event.task for event in story.bus.tape.of(TaskReady) if event.task.task_id == story.task_id]
    return bool(ready[-1].checkpoints) and ready[-1].checkpoints[0].step == step


async def test_a_waiting_task_is_paused_at_once(story: Story) -> None:
    await story.submitted(start=False)
    answer = await story.ask("pause")
    assert (answer.status_code, answer.json()["phase"]) == (200, "held")
    assert (await story.ask("pause")).status_code == 200
    answer = await story.ask("resume")
    assert (answer.status_code, answer.json()["status"], answer.json()["phase"]) == (
        202,
        "pending",
        "waiting_slots",
    )
    assert (await story.ask("resume")).status_code == 202
    assert (await story.ask("cancel")).status_code == 200
    assert (await story.ask("cancel")).status_code == 200, "cancelled already"
    for wish in ("start", "pause", "resume"):
        refused = await story.ask(wish)
        assert refused.status_code == 409
        assert f"task {story.task_id} is cancelled and cannot be" in refused.json()["detail"]
    assert (await story.api.post("/tasks/task-none/pause")).status_code == 404


async def test_the_answer_tells_of_a_run_that_never_asks(story: Story) -> None:
    await story.running()
    await story.progressed(1, 1, TaskPhase.TRAINING)
    await story.saved(1, 10)
    await eventually(lambda: _with_checkpoint(story, 10), within=10, what="a checkpoint")
    await story.until("running", progress=AT_20)
    answer = await story.ask("pause")
    assert answer.status_code == 202
    assert "has not asked so far whether it should stop (run.should_stop())" in answer.json()["reason"]
    assert answer.json()["reason"].endswith("then resume goes on from step 10")


async def test_a_pause_is_taken_back(story: Story) -> None:
    await story.running()
    await story.ask("pause")
    answer = await story.ask("resume", wait=5)
    assert (answer.status_code, answer.json()["status"], answer.json()["phase"]) == (200, "running", "training")
    await story.ended(1, Outcome.PAUSED, 20)
    task = await story.until("pending", phase="waiting_slots")
    assert (task["losses"], task["retries_used"], task["checkpoints"][0]["step"]) == (0, 0, 20)
    await story.told(TaskRetryScheduled)


async def test_a_repaired_run_says_what_was_changed_and_why(story: Story) -> None:
    parameters = {"micro_batch": 64, "accumulation": 1}
    roles = {"micro_batch": "micro_batch", "accumulate": "accumulation"}
    await story.running(parameters=parameters, repairable=roles)
    failure = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message="CUDA out of memory", line=7)
    await story.ended(1, Outcome.FAILED, 1200, 1100, failure=failure, final_step=1210)
    task = await story.until("pending", phase="waiting_slots")
    said = "attempt 1 ran out of memory; micro_batch 64 → 32, accumulation 1 → 2, goes on from step 1200"
    assert task["reason"] == said
    assert task["overrides"] == {"micro_batch": 32, "accumulation": 2}
    assert (task["retries_used"], task["ran_seconds"]) == (1, 300.0)
    retry = await story.told(TaskRetryScheduled)
    assert retry.task.repairs[0].resume_step == retry.task.checkpoints[0].step == 1200
    history = (await story.api.get(f"/tasks/{story.task_id}/history")).json()["entries"]
    assert history[-1]["changes"]["micro_batch"] == {"old": 64, "new": 32}

    await story.saved(1, 1300)  # a zombie's word: its attempt is over
    await story.running(2)
    await story.bus.say(
        WorkerLost(placement=story.placement(2, PlacementState.RELEASED, "its worker was silent for 9 s"))
    )
    task = await story.until("pending", losses=1)
    assert [one["step"] for one in task["checkpoints"]] == [1200, 1100]
    attempts = (await story.api.get(f"/tasks/{story.task_id}/attempts")).json()
    assert attempts["task_id"] == story.task_id
    first, second = attempts["attempts"]
    assert (first["failure_class"], first["message"]) == ("out_of_memory", "CUDA out of memory")
    assert (first["resume_step"], first["final_step"], first["outcome"]) == (0, 1210, "failed")
    assert (second["outcome"], second["message"]) == ("lost", "its worker was silent for 9 s")


async def test_what_is_said_twice_or_late_changes_nothing(story: Story) -> None:
    await story.running()
    await story.ask("pause")
    over = AttemptEnded(attempt=story.attempt(1, 99, 20, outcome=Outcome.PAUSED))
    said: list[Event] = [over, over, AttemptStarted(attempt=story.attempt(1, 1))]
    for event in said:
        await story.bus.say(event)
    held = await story.until("paused")
    await story.saved(1, 10, 20, 30)
    await story.progressed(1, 9, TaskPhase.TRAINING, step=99)
    other = Story(story.bus, story.api, story.script)
    await other.running()
    await other.progressed(1, 1, TaskPhase.TRAINING)
    await other.until("running", progress=AT_20)
    assert await story.show() == held, "what was said before has been heard by then"


async def test_a_run_that_was_on_its_way_is_put_to_rest_too(story: Story) -> None:
    await story.submitted()
    await story.ask("pause")
    await story.placed(1)
    task = await story.until("paused", attempt=1, phase="held")
    assert (task["worker_id"], task["stop"]) == (WORKER, None)
    await story.ended(1, Outcome.PAUSED, 5)
    await story.until("paused", worker_id=None)
    assert (await story.show())["checkpoints"][0]["step"] == 5


async def test_wrong_words_about_failures_are_told_with_their_path(story: Story) -> None:
    config: dict[str, Any] = {"recipe": "script", "parameters": {"path": str(story.script)}}
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"retry": {"out_of_memroy": {"max": 1}}}, "config.retry.out_of_memroy", "did you mean 'out_of_memory'?"),
        ({"repairable": {"micro_batch": "bs"}}, "config.repairable.micro_batch", "has no parameter 'bs'"),
        ({"retry_on": ["user_error"]}, "config.retry_on.0", "user_error is never tried again"),
    ]
    for fields, path, said in wrong:
        answer = await story.api.post("/tasks", json={"config": {**config, **fields}})
        assert answer.status_code == 422
        found = {error["path"]: error["message"] for error in answer.json()["errors"]}
        assert said in found[path]
    answer = await story.api.post("/tasks", json={"config": config, "timeout": "90m"})
    shown = (await story.api.get(f"/tasks/{answer.json()['task_id']}")).json()
    assert shown["config"]["timeout"] == 5400.0


async def test_what_a_task_asks_for_changes_while_it_waits_or_is_paused(story: Story) -> None:
    await story.submitted(resource_requirements={"cpu": 1})

    async def wish(**fields: Any) -> httpx.Response:
        return await story.api.patch(f"/tasks/{story.task_id}/resources", json=fields)

    answer = await wish(cpu=2, memory="32Gi", reason="it ran out of memory")
    assert answer.status_code == 200, answer.text
    asks = answer.json()["config"]["resource_requirements"]
    assert (asks["cpu"], asks["memory"], asks["gpu"]) == (2, 32 * 2**30, 0)
    event = await story.told(TaskResourcesChanged)
    assert event.task.config.resource_requirements.cpu == 2
    assert (await wish(cpu=2)).json()["version"] == answer.json()["version"], "nothing is different"
    history = (await story.api.get(f"/tasks/{story.task_id}/history")).json()["entries"]
    assert history[-1]["cause"] == "resources changed: cpu 1 → 2, memory 0 GiB → 32 GiB (it ran out of memory)"
    for bad, field in (({"gpu": -1}, "gpu"), ({"memory": "much"}, "memory"), ({"gpus": 1}, "gpus")):
        refused = await wish(**bad)
        assert (refused.status_code, refused.json()["errors"][0]["path"]) == (422, field)

    await story.placed(1)
    await story.until("pending", attempt=1, phase="starting")
    refused = await wish(cpu=4)
    assert refused.status_code == 409
    assert "pause it, change its resources, and resume it" in refused.json()["detail"]
    await story.bus.say(AttemptStarted(attempt=story.attempt(1, 1)))
    await story.until("running")
    assert (await wish(cpu=4)).status_code == 409
    await story.ask("pause")
    await story.ended(1, Outcome.PAUSED, 10)
    await story.until("paused", phase="held")
    assert (await wish(cpu=4)).json()["config"]["resource_requirements"]["cpu"] == 4
    await story.ask("cancel")
    refused = await wish(cpu=8)
    assert (refused.status_code, "rerun" in refused.json()["detail"]) == (409, True)
    gone = await story.api.patch("/tasks/task-none/resources", json={"cpu": 1})
    assert gone.status_code == 404
