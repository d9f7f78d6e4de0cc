"""The result service over real Kafka: ends become versions and reports, once, whatever is repeated or killed."""

import hashlib
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from trainwright.contracts.attempt import (
    AttemptDocument,
    AttemptEnded,
    AttemptStarted,
    BundleFile,
    BundleManifest,
    CheckpointSaved,
    Outcome,
)
from trainwright.contracts.checkpoint import Checkpoint, CheckpointFile, CheckpointManifest, area_of, kept_of
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.parameters import ChangedValue
from trainwright.contracts.result import ModelVersionRegistered, ReportGenerated
from trainwright.contracts.task import (
    Repair,
    TaskDocument,
    TaskPhase,
    TaskStatus,
    TaskStatusChanged,
)
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime.clock import SystemClock
from trainwright.storage.directory import DirectoryBlobs

CLOCK = SystemClock()
HISTORY = {"metrics": {"loss": [[step, 1 / (step + 1)] for step in range(100)]}}


class Story:
    """Tells the service what the task's owner and a worker would, and asks it over HTTP."""

    def __init__(self, bus: Bus, api: httpx.AsyncClient, blobs: DirectoryBlobs) -> None:
        self.bus = bus
        self.api = api
        self.blobs = blobs

    def task(self, task_id: str, status: TaskStatus, *, attempt: int = 1, version: int = 5, **fields: Any) -> Any:
        now = datetime.now(UTC)
        document = TaskDocument(
            task_id=task_id,
            version=version,
            name=fields.pop("name", "counting"),
            config=TaskConfig(recipe="script", parameters={"path": "count.py"}),
            status=status,
            phase=TaskPhase.ENDED if status is not TaskStatus.RUNNING else TaskPhase.TRAINING,
            attempt=attempt,
            created_at=now,
            updated_at=now,
            **fields,
        )
        return TaskStatusChanged(task=document)

    async def attempt(self, task_id: str, attempt: int = 1, files: dict[str, bytes] | None = None) -> AttemptEnded:
        files = files if files is not None else {"history.json": json.dumps(HISTORY).encode(), "answer.txt": b"42"}
        stored = {name: await self.blobs.write_bytes(content) for name, content in files.items()}
        manifest = BundleManifest(
            files={name: BundleFile(sha256=blob.sha256, size=blob.size) for name, blob in stored.items()},
            metadata={"task_id": task_id, "attempt": attempt},
        )
        bundle = (await self.blobs.write_bytes(manifest.model_dump_json().encode())).sha256
        return AttemptEnded(
            attempt=AttemptDocument(
                task_id=task_id,
                attempt=attempt,
                version=2,
                worker_id="worker-0123456789ab",
                incarnation="one",
                outcome=Outcome.COMPLETED,
                bundle=bundle,
                latest_metrics={"loss": 0.01},
            )
        )

    async def completed(self, name: str = "counting", **fields: Any) -> str:
        task_id = CLOCK.new_id("task")
        await self.bus.say(await self.attempt(task_id, **fields))
        await self.bus.say(self.task(task_id, TaskStatus.COMPLETED, name=name))
        return task_id

    async def models(self, **where: Any) -> list[dict[str, Any]]:
        answer = await self.api.get("/models", params={"page_size": 500, **where})
        assert answer.status_code == 200, answer.text
        return list(answer.json()["models"])

    async def reported(self, task_id: str) -> dict[str, Any]:
        async def check() -> dict[str, Any] | None:
            found = await self.models(task_id=task_id)
            return found[0] if found and found[0]["report"] else None

        model: dict[str, Any] = await eventually(check, within=40, what=f"the report of {task_id}")
        return model


@pytest.fixture
async def process(kafka: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    with services(["result"], kafka, tmp_path, RESULT_IDLE_SECONDS="1") as process:
        await process.ready()
        yield process


@pytest.fixture
async def story(process: ServiceProcess, kafka: str, tmp_path: Path) -> AsyncIterator[Story]:
    async with listening(kafka) as bus, process.client() as api:
        yield Story(bus, api, DirectoryBlobs(tmp_path / "blobs"))


async def test_a_completed_task_leaves_a_version_its_files_and_a_report(story: Story) -> None:
    task_id = await story.completed("first")
    model = await story.reported(task_id)
    assert model["model_id"] == "script/first/v1"
    assert model["metrics"] == {"loss": 0.01}
    assert set(model["files"]) == {"history.json", "answer.txt", "loss_curve.png"}

    report = await story.api.get(f"/tasks/{task_id}/report")
    assert report.status_code == 200
    assert report.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in report.headers["content-security-policy"]
    assert "<svg" in report.text

    assert (await story.api.get("/models/script/first/v1")).json() == model
    listed = (await story.api.get("/models/script/first/v1/files")).json()
    assert listed == {"model_id": "script/first/v1", "files": model["files"]}
    answer = await story.api.get("/models/script/first/v1/files/answer.txt")
    assert (answer.text, answer.headers["content-disposition"]) == (
        "42",
        "attachment; filename*=UTF-8''answer.txt",
    )
    picture = await story.api.get("/models/script/first/v1/files/loss_curve.png")
    assert picture.content.startswith(b"\x89PNG")
    assert len(picture.content) == model["files"]["loss_curve.png"]["size"]

    mine = [event.model for event in story.bus.tape.of(ModelVersionRegistered) if event.subject == task_id]
    assert [one.version for one in mine] == [1]
    said = await story.bus.tape.until(ReportGenerated)
    assert [event.model.version for event in said if event.subject == task_id] == [2]


async def test_versions_count_up_and_repeats_and_reordering_change_nothing(story: Story) -> None:
    task_ids = [CLOCK.new_id("task") for _ in range(20)]
    for number, task_id in enumerate(task_ids):
        ended, done = await story.attempt(task_id), story.task(task_id, TaskStatus.COMPLETED, name="same")
        for event in (ended, done, ended, done) if number % 2 else (done, ended, done):
            await story.bus.say(event)

    async def all_there() -> bool:
        return len(await story.models(name="same")) >= 20

    await eventually(all_there, within=20, what="20 versions")
    found = await story.models(name="same")
    assert sorted(one["number"] for one in found) == list(range(1, 21))
    assert {one["task_id"] for one in found} == set(task_ids)
    second = (await story.api.get("/models", params={"name": "same", "page": 2, "page_size": 8})).json()
    assert second["pagination"] == {"total": 20, "page": 2, "page_size": 8, "total_pages": 3}
    assert second["models"] == found[8:16]
    assert (await story.api.get("/models", params={"name": "same", "page": 9})).json()["models"] == []


async def test_an_attempt_that_was_replaced_leaves_nothing(story: Story) -> None:
    task_id = CLOCK.new_id("task")
    await story.bus.say(story.task(task_id, TaskStatus.RUNNING, attempt=2, version=4))
    await story.bus.say(await story.attempt(task_id, 1, {"stale.txt": b"old"}))
    await story.bus.say(await story.attempt(task_id, 2, {"fresh.txt": b"new"}))
    await story.bus.say(story.task(task_id, TaskStatus.COMPLETED, attempt=2, version=5))
    model = await story.reported(task_id)
    assert (model["attempt"], list(model["files"])) == (2, ["fresh.txt"])
    assert len(await story.models(task_id=task_id)) == 1


async def test_a_kill_between_end_and_report_loses_nothing(
    story: Story, process: ServiceProcess, tmp_path: Path
) -> None:
    task_ids = [await story.completed("killed") for _ in range(6)]
    await story.bus.tape.until(ModelVersionRegistered)
    process.stop(kill=True)
    process.start()
    await process.ready()
    models = [await story.reported(task_id) for task_id in task_ids]
    assert sorted(model["number"] for model in models) == list(range(1, 7))


async def test_the_process_that_draws_ends_when_idle_and_with_its_service(
    story: Story, process: ServiceProcess
) -> None:
    def drawing() -> list[psutil.Process]:
        ours = [child for one in psutil.Process().children() for child in one.children()]
        return [one for one in ours if "services.result.report" in _command(one)]

    await story.reported(await story.completed("idle"))
    await eventually(lambda: not drawing(), within=10, what="the idle process to end")
    await story.completed("busy")
    started = await eventually(drawing, within=20, what="the process that draws")
    process.stop(kill=True)
    await eventually(
        lambda: not started[0].is_running() or started[0].status() == "zombie", within=15, what="its end"
    )


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


async def test_what_cannot_be_drawn_is_said(story: Story) -> None:
    bad = json.dumps({"metrics": 7}).encode()
    model = await story.reported(await story.completed("bad", files={"history.json": bad}))
    report = await story.api.get(f"/tasks/{model['task_id']}/report")
    assert "The history of this run cannot be shown" in report.text


async def test_a_failed_task_has_a_report_and_one_that_runs_has_none_yet(story: Story) -> None:
    failed, running = CLOCK.new_id("task"), CLOCK.new_id("task")
    failure = Failure(failure_class=FailureClass.USER_ERROR, message="boom", traceback="Traceback\n<b>boom</b>")
    ended = (await story.attempt(failed)).attempt
    half = {"outcome": Outcome.FAILED, "bundle": None, "final_step": 1200, "total_steps": 2400}
    await story.bus.say(
        AttemptEnded(attempt=ended.model_copy(update={**half, "latest_metrics": {"<loss>": 0.25}}))
    )
    await story.bus.say(story.task(failed, TaskStatus.FAILED, failure=failure))
    await story.bus.say(story.task(running, TaskStatus.RUNNING))

    async def known() -> bool:
        return (await story.api.get(f"/tasks/{running}/report")).status_code == 409

    await eventually(known, within=10, what="the tasks to be known")
    report = await story.api.get(f"/tasks/{failed}/report")
    assert report.status_code == 200
    assert "&lt;b&gt;boom&lt;/b&gt;" in report.text
    for shown in ("<span>&lt;loss&gt;</span><b>0.25</b>", "<b>1,200</b><span>of 2,400, attempt 1</span>"):
        assert shown in report.text, "how far it had come, though nothing is left of it"
    assert f"trainwright metrics {failed} --name" in report.text
    waiting = (await story.api.get(f"/tasks/{running}/report")).json()
    assert waiting["code"] == "conflict"
    assert "is running (training)" in waiting["detail"]


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/tasks/task-000000000000/report", 404, "there is no task"),
        ("/tasks/nonsense/report", 404, "there is no task"),
        ("/tasks/task-000000000000/checkpoints", 404, "there is no task"),
        ("/tasks/nonsense/checkpoints", 404, "there is no task"),
        ("/models/no/such/v1", 404, "ids look like"),
        ("/models/no/such", 404, "ids look like"),
        ("/models/no/such/v1/files/x", 404, "ids look like"),
        ("/models/..%2f..%2fetc/passwd", 404, ""),
        ("/models?page=0", 422, "page"),
        ("/models?page_size=100000", 422, "page_size"),
        ("/models?page=x", 422, "page"),
    ],
)
async def test_bad_requests_are_answered_as_problems(story: Story, path: str, status: int, says: str) -> None:
    answer = await story.api.get(path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert says in answer.json()["detail"]


async def test_checkpoints_are_listed_and_what_the_task_drops_is_deleted(story: Story) -> None:
    task_id = CLOCK.new_id("task")
    area = story.blobs.area(area_of(task_id))
    saved: list[Checkpoint] = []
    document = (await story.attempt(task_id, files={})).attempt.model_copy(
        update={"outcome": None, "bundle": None}
    )
    await story.bus.say(AttemptStarted(attempt=document.model_copy(update={"version": 1})))
    for number, step in enumerate((10, 20, 30, 40), 2):
        weights = await area.write_bytes(f"weights {step}".encode())
        files = {"model.safetensors": CheckpointFile(sha256=weights.sha256, size=weights.size)}
        manifest = CheckpointManifest(step=step, attempt=1, saved_at=CLOCK.now(), files=files)
        blob = await area.write_bytes(manifest.model_dump_json().encode())
        saved.append(Checkpoint(step=step, attempt=1, manifest=blob.sha256, saved_at=CLOCK.now(), score=step))
        changes = {"version": number, "checkpoints": kept_of(saved)}
        saying = CheckpointSaved(attempt=document.model_copy(update=changes))
        kept = story.task(task_id, TaskStatus.RUNNING, version=number, checkpoints=kept_of(saved))
        for event in (saying, kept, saying) if number % 2 else (kept, saying, kept):
            await story.bus.say(event)

    async def listed() -> list[dict[str, Any]] | None:
        rows = (await story.api.get(f"/tasks/{task_id}/checkpoints")).json().get("checkpoints", [])
        return rows if len(rows) == 4 and all(row["kept"] for row in rows) else None

    rows = await eventually(listed, within=15, what="four checkpoints that the task keeps")
    assert [(row["step"], row["kept"], row["best"]) for row in rows] == [
        (40, True, False),
        (30, True, False),
        (20, True, False),
        (10, True, True),  # the lowest score
    ]
    dropped = [saved[3], saved[2], saved[1]]
    await story.bus.say(story.task(task_id, TaskStatus.RUNNING, version=9, checkpoints=dropped))

    left = {
        *(one.manifest for one in dropped),
        *[hashlib.sha256(f"weights {one.step}".encode()).hexdigest() for one in dropped],
    }

    async def swept() -> bool:
        return {one.sha256 async for one in area.stored()} == left

    await eventually(swept, within=15, what="the dropped checkpoint to go, and nothing else")
    rows = (await story.api.get(f"/tasks/{task_id}/checkpoints")).json()["checkpoints"]
    assert [(row["step"], row["kept"], row["best"]) for row in rows][-2:] == [(20, True, True), (10, False, False)]


async def test_a_report_tells_the_attempts_and_what_was_repaired(story: Story) -> None:
    task_id = CLOCK.new_id("task")
    failure = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message="no room for 64 rows <b>at once</b>")
    first = (await story.attempt(task_id, 1, {})).attempt
    first = first.model_copy(update={"outcome": Outcome.FAILED, "failure": failure, "final_step": 41})
    second = (await story.attempt(task_id, 2)).attempt.model_copy(update={"resume_step": 40, "final_step": 99})
    repair = Repair(
        attempt=1,
        failure_class=FailureClass.OUT_OF_MEMORY,
        action="halve the micro-batch",
        changes={"micro_batch": ChangedValue(old=64, new=32)},
        resume_step=40,
        reason="the same effective batch by accumulation",
        at=CLOCK.now(),
    )
    await story.bus.say(AttemptEnded(attempt=first))
    await story.bus.say(AttemptEnded(attempt=second))
    await story.bus.say(story.task(task_id, TaskStatus.COMPLETED, attempt=2, repairs=[repair]))
    await story.reported(task_id)
    text = (await story.api.get(f"/tasks/{task_id}/report")).text
    for said in ("Attempts and repairs", "failed at step 41", "no room for 64 rows &lt;b&gt;", "step 40"):
        assert said in text
    for said in ("<em>micro_batch</em> 64 → 32", "halve the micro-batch", "Dashed lines"):
        assert said in text


async def test_an_unknown_file_names_the_nearest(story: Story) -> None:
    await story.reported(await story.completed("files"))
    answer = await story.api.get("/models/script/files/v1/files/anser.txt")
    assert answer.status_code == 404
    assert "did you mean 'answer.txt'?" in answer.json()["detail"]
