"""Storing and fetching checkpoints on a real folder of blobs that is away, full, or holds damaged ones."""

import hashlib
import os
import shutil
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.trainer_worker import checkpoints, spawn
from services.trainer_worker.domain import Attempt, Stop, StopCause
from services.trainer_worker.prepare import prepare
from tests.harness import eventually
from tests.integration.runtime_parts import running
from tests.runtime_kit import FastClock
from tests.worker_place import place_in
from trainwright.contracts.checkpoint import (
    Checkpoint,
    CheckpointFile,
    CheckpointKind,
    CheckpointManifest,
    area_of,
    kept_of,
)
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.queue import Member, Rendezvous
from trainwright.contracts.resource import Slots
from trainwright.contracts.task_config import TaskConfig
from trainwright.storage.directory import DirectoryBlobs
from trainwright.training import layout

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


class Run:
    """A run's folder, the attempt as it is known, and what was told of its checkpoints."""

    def __init__(self, folder: Path) -> None:
        self.directory = folder / "task-1.1"
        spawn.prepare_folder(self.directory)
        self.root = folder / "blobs"
        self.blobs = DirectoryBlobs(self.root)
        self.clock = FastClock()
        self.attempt = Attempt(
            task_id="task-1", attempt=1, incarnation="now", name="x", config=TaskConfig(recipe="script"),
            slots=Slots(), received_at=NOW,
        )  # fmt: skip
        self.told: list[Checkpoint] = []
        self.bad_from = 10**9
        self.uploads = self.agent()

    def agent(self) -> checkpoints.Uploads:
        """Return what a (new) agent stores checkpoints with."""
        return checkpoints.Uploads(
            self.directory,
            self.blobs,
            self.clock,
            attempt=lambda: self.attempt,
            holds_back=lambda step: step >= self.bad_from,
            keep=self.keep,
        )

    async def keep(self, checkpoint: Checkpoint) -> None:
        self.told.append(checkpoint)
        kept = kept_of([*self.attempt.checkpoints, checkpoint])
        self.attempt = self.attempt.model_copy(update={"checkpoints": kept})

    def save(self, step: int, content: bytes = b"weights", **fields: object) -> Path:
        """Write a checkpoint as a run does."""
        folder = self.directory / layout.CHECKPOINTS / f"step-{step:010d}"
        folder.mkdir(parents=True)
        (folder / "state.json").write_bytes(content)
        file = CheckpointFile(sha256=hashlib.sha256(content).hexdigest(), size=len(content))
        values = {"step": step, "saved_at": NOW, "files": {"state.json": file}, **fields}
        text = CheckpointManifest.model_validate(values).model_dump_json()
        (folder / layout.MANIFEST).write_text(text)
        return folder

    async def finish(self, tries: int | None = None) -> list[int]:
        """Store what is left; return the steps told."""
        await self.uploads.finish(lambda: tries)
        return [one.step for one in self.told]

    @property
    def notes(self) -> str:
        return spawn.read_tail(self.directory / spawn.AGENT_LOG)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


async def test_the_newest_is_stored_first_and_what_would_not_be_kept_is_not_stored(run: Run) -> None:
    run.save(1, b"one", score=0.1)
    for step in range(2, 7):
        run.save(step, str(step).encode(), score=1.0)
    run.save(7, b"seven", kind=CheckpointKind.FINAL)
    assert await run.finish() == [7, 6, 5, 1]
    assert [one.step for one in run.attempt.checkpoints] == [7, 6, 5, 1]
    area = run.blobs.area(area_of("task-1"))
    raw = await area.read_bytes(run.told[0].manifest)
    manifest = checkpoints.parse(raw)
    assert await area.read_bytes(manifest.files["state.json"].sha256) == b"seven"
    assert (run.told[0].kind, run.told[0].size, run.told[3].score) == (CheckpointKind.FINAL, 5, 0.1)
    run.uploads = run.agent()
    assert await run.finish() == [7, 6, 5, 1]  # another agent stores and tells nothing twice


def test_of_one_step_saved_twice_the_later_is_gone_on_from() -> None:
    due = Checkpoint(step=5, attempt=1, manifest="0" * 64, saved_at=NOW)
    stop = due.model_copy(update={"manifest": "1" * 64, "saved_at": NOW + timedelta(milliseconds=1)})
    assert kept_of([due, stop]) == kept_of([stop, due]) == [stop, due]


async def test_what_is_half_written_removed_or_damaged_is_not_told(run: Run) -> None:
    run.save(1)
    damaged = run.save(2)
    (damaged / "state.json").write_bytes(b"weightS")
    (run.directory / layout.CHECKPOINTS / ".step-0000000003.tmp").mkdir()
    (run.directory / layout.CHECKPOINTS / "step-0000000004").mkdir()
    (run.save(5) / "state.json").unlink()
    (run.save(6) / layout.MANIFEST).write_text("{")
    strange = run.save(7)
    text = (strange / layout.MANIFEST).read_text().replace("state.json", "../../spec.json")
    (strange / layout.MANIFEST).write_text(text)
    later = run.save(8)
    (later / layout.MANIFEST).write_text((later / layout.MANIFEST).read_text().replace('"format":1', '"format":2'))
    assert await run.finish() == [1]
    for words in (
        "step-0000000002 is damaged and not stored: state.json has 7 bytes",
        "step-0000000005 is damaged and not stored",
        "step-0000000006 is damaged and not stored: its manifest cannot be read",
        "step-0000000007 is damaged and not stored: its manifest names '../../spec.json'",
        "step-0000000008 is damaged and not stored: it has layout 2",
    ):
        assert words in run.notes


async def test_what_a_full_disk_does_not_take_is_said_when_it_does(run: Run) -> None:
    (run.save(2) / "state.json").write_bytes(b"weightS")
    run.save(1)
    log = run.directory / spawn.AGENT_LOG
    log.symlink_to("/dev/full")
    assert await run.finish() == [1], "nor does that hold up what is whole"
    log.unlink()
    assert await run.finish() == [1]
    assert run.notes.count("step-0000000002 is damaged and not stored: state.json") == 1


async def test_one_that_the_run_removes_while_it_is_stored_is_passed_over_in_silence(run: Run) -> None:
    run.save(1)
    vanishing = run.save(2)
    (vanishing / "state.json").unlink()

    async def sleep(seconds: float) -> None:
        shutil.rmtree(vanishing, ignore_errors=True)

    run.clock.sleep = sleep  # type: ignore[method-assign]
    assert await run.finish() == [1]
    assert run.notes == ""


async def test_a_store_that_is_away_is_waited_for_or_given_up_and_both_are_said(run: Run) -> None:
    run.save(1)
    run.root.write_text("not a folder")
    assert await run.finish(tries=checkpoints.GIVE_UP_TRIES) == []
    assert "checkpoints cannot be stored now" in run.notes
    assert "checkpoints are given up" in run.notes
    assert 10 < sum(run.clock.slept) < 30
    tries = 0

    async def sleep(seconds: float) -> None:
        nonlocal tries
        tries += 1
        if tries == 50:
            run.root.unlink()

    run.clock.sleep = sleep  # type: ignore[method-assign]
    assert await run.finish() == [1]
    assert tries == 50


async def test_a_fenced_run_stores_nothing_and_states_that_are_no_numbers_wait(run: Run) -> None:
    run.save(1)
    run.save(2)
    run.bad_from = 2
    assert await run.finish() == [1]
    run.bad_from = 10**9
    run.attempt = run.attempt.model_copy(update={"stop": Stop(kind=StopCause.FENCED)})
    assert await run.finish() == [1]


async def test_what_is_fetched_is_whole_and_a_half_fetched_one_is_fetched_anew(run: Run) -> None:
    run.save(3, b"three")
    await run.finish()
    shutil.rmtree(run.directory / layout.CHECKPOINTS)
    half = run.directory / checkpoints.RESUME_PART
    half.mkdir()
    (half / "left over").touch()
    attempt = run.attempt.model_copy(update={"resume_from": run.told})
    assert await checkpoints.fetch(attempt, run.directory, run.blobs, run.clock) == 3
    resume = run.directory / layout.RESUME
    assert sorted(path.name for path in resume.iterdir()) == [layout.MANIFEST, "state.json"]
    assert (resume / "state.json").read_bytes() == b"three"
    assert not half.exists()
    checkpoints.remove_local(run.directory)
    assert not resume.exists()
    assert await checkpoints.fetch(run.attempt, run.directory, run.blobs, run.clock) is None
    assert run.notes == ""


async def test_a_store_that_is_away_is_no_reason_to_take_an_older_checkpoint(run: Run) -> None:
    for step in (1, 2):
        run.save(step, str(step).encode())
    await run.finish()
    run.root.rename(run.root.with_name("aside"))
    run.root.write_text("not a folder")
    attempt = run.attempt.model_copy(update={"resume_from": run.attempt.checkpoints})
    with pytest.raises(StoreUnavailable):
        await checkpoints.fetch(attempt, run.directory, run.blobs, run.clock)
    assert run.notes == ""


async def test_a_disk_that_cannot_take_it_is_the_machines_fault(run: Run) -> None:
    run.save(1)
    await run.finish()
    checkpoints.remove_local(run.directory)
    (run.directory / checkpoints.RESUME_PART).write_text("in the way")
    attempt = run.attempt.model_copy(update={"resume_from": run.told})
    place = place_in(run.directory.parent, run.clock)
    failure = await prepare(attempt, run.directory, place)
    assert failure is not None
    assert failure.failure_class is FailureClass.ENVIRONMENT_ERROR
    expected = f"the checkpoint to go on from cannot be written to {run.directory}: File exists"
    assert failure.message == expected


async def test_a_checkpoint_that_cannot_be_read_is_tried_and_then_an_older_one_is_taken(run: Run) -> None:
    for step in (1, 2):
        run.save(step, str(step).encode())
    await run.finish()
    newest = run.attempt.checkpoints[0]
    blob = next(run.root.glob(f"areas/*/*/*/{newest.manifest}"))
    blob.unlink()
    blob.mkdir()  # opening it fails, and not because it is missing
    run.clock.slept.clear()
    attempt = run.attempt.model_copy(update={"resume_from": run.attempt.checkpoints})
    assert await checkpoints.fetch(attempt, run.directory, run.blobs, run.clock) == 1
    assert len(run.clock.slept) == checkpoints.FETCH_TRIES - 1
    assert "the checkpoint of step 2 cannot be read" in run.notes
    assert "goes on from its checkpoint of step 1" in run.notes

    only = run.attempt.model_copy(update={"resume_from": [newest]})
    with pytest.raises(StoreUnavailable):
        await checkpoints.fetch(only, run.directory, run.blobs, run.clock)


async def test_what_breaks_while_a_checkpoint_is_stored_holds_up_no_other(run: Run) -> None:
    """That one is damaged cannot even be noted in the run's log."""
    note = run.directory / spawn.AGENT_LOG
    note.mkdir()
    run.save(1)
    (run.save(2) / "state.json").unlink()
    async with running(run.uploads.run()):
        await eventually(lambda: run.told, within=20, what="the whole one")
    assert [one.step for one in run.told] == [1]


async def test_a_checkpoint_that_could_not_be_told_for_whatever_reason_is_told_later(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    run.save(1)
    stored, run.attempt = run.attempt, None  # type: ignore[assignment]  # nothing of an attempt can be read
    async with running(run.uploads.run()):
        await eventually(lambda: "storing a checkpoint failed" in caplog.text, within=20, what="a first try")
        run.attempt = stored
        await eventually(lambda: run.told, within=20, what="the second one")
    assert [one.step for one in run.told] == [1]


async def test_a_folder_that_cannot_be_written_is_the_machines_fault(run: Run) -> None:
    (run.directory / layout.SPEC).mkdir()
    script = await run.blobs.write_bytes(b"print(1)")
    files = [{"path": "train.py", "sha256": script.sha256, "size": script.size}]
    config = TaskConfig.model_validate({"recipe": "script", "parameters": {"path": "train.py"}, "files": files})
    attempt = run.attempt.model_copy(update={"config": config})
    failure = await prepare(attempt, run.directory, place_in(run.directory.parent, run.clock))
    assert failure is not None
    assert failure.failure_class is FailureClass.ENVIRONMENT_ERROR
    assert failure.message.startswith("the run's folder: ")
    assert "Is a directory" in failure.message


async def test_a_folder_that_the_worker_may_not_use_is_its_own_fault(run: Run) -> None:
    user = os.geteuid()
    run.directory.chmod(0)
    if user == 0:
        os.seteuid(65534)  # root may do everything
    try:
        failure = await prepare(run.attempt, run.directory, place_in(run.directory.parent, run.clock))
    finally:
        os.seteuid(user)
        run.directory.chmod(0o700)
    assert failure is not None
    assert failure.failure_class is FailureClass.ENVIRONMENT_ERROR
    assert failure.message.startswith("the run's folder: ")
    assert "Permission denied" in failure.message


async def test_a_port_that_somebody_else_has_is_the_machines_fault(run: Run) -> None:
    """Where the members of a run are to meet, seen from the worker that they meet on."""
    place = place_in(run.directory.parent, run.clock)
    members = [Member(rank=rank, worker_id=f"worker-{rank}", incarnation="now") for rank in (0, 1)]
    with socket.create_server(("0.0.0.0", 0)) as other:
        port = other.getsockname()[1]
        gang = {"members": members, "rendezvous": Rendezvous(host="here", port=port, id="one")}
        attempt = run.attempt.model_copy(update=gang)
        failure = await prepare(attempt, run.directory, place)
        assert failure is not None
        assert failure.failure_class is FailureClass.ENVIRONMENT_ERROR
        assert failure.message.startswith(
            f"port {port}, where the members of the run were to meet, cannot be used"
        )
        assert "TRAINWRIGHT_WORKER_PORTS" in (failure.hint or "")
        elsewhere = attempt.model_copy(update={"rank": 1})
        assert "port" not in str(await prepare(elsewhere, run.directory, place))
    assert "port" not in str(await prepare(attempt, run.directory, place))
