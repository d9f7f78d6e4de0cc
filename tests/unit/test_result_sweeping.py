"""What is swept of a task's checkpoints: on a real store and a real folder, to the bit."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.result import store
from services.result.domain import checkpoint_list
from services.result.handlers import SWEEP, on_attempt, on_task
from services.result.settings import ResultSettings
from services.result.sweeping import Sweeper
from tests.runtime_kit import MOMENT, FastClock
from trainwright.contracts.attempt import AttemptDocument, CheckpointSaved
from trainwright.contracts.checkpoint import (
    Checkpoint,
    CheckpointFile,
    CheckpointKind,
    CheckpointManifest,
    area_of,
    kept_of,
)
from trainwright.contracts.task import TaskDocument, TaskPhase, TaskStatus, TaskStatusChanged
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime.outbox import Effect
from trainwright.storage.directory import DirectoryBlobs
from trainwright.storage.sqlite import SqliteStore

TASK = "task-0123456789ab"
GRACE = ResultSettings().sweep_grace


class Desk:
    """A worker that stores, a task's owner that names, and the service between them."""

    def __init__(self, documents: SqliteStore, root: Path) -> None:
        self.documents, self.root, self.clock = documents, root, FastClock()
        self.blobs = DirectoryBlobs(root)
        self.area = self.blobs.area(area_of(TASK))
        self.sweeper = Sweeper(documents, self.blobs, ResultSettings(), self.clock)
        self._version = 0

    async def upload(self, step: int, *, attempt: int = 1, shared: bytes = b"frozen", **fields: Any) -> Checkpoint:
        """Store a checkpoint of two files as a worker does: its own, and one like every other's."""
        blobs = [await self.area.write_bytes(content) for content in (f"state {step} {attempt}".encode(), shared)]
        files = {f"{n}.safetensors": CheckpointFile(sha256=b.sha256, size=b.size) for n, b in enumerate(blobs)}
        manifest = CheckpointManifest(step=step, attempt=attempt, saved_at=MOMENT, files=files)
        stored = await self.area.write_bytes(manifest.model_dump_json().encode())
        return Checkpoint(step=step, attempt=attempt, manifest=stored.sha256, saved_at=MOMENT, size=9, **fields)

    async def announce(self, *checkpoints: Checkpoint, attempt: int = 1, version: int = 2) -> None:
        document = AttemptDocument(
            task_id=TASK,
            attempt=attempt,
            version=version,
            worker_id="worker-0123456789ab",
            incarnation="one",
            checkpoints=list(checkpoints),
        )
        async with self.documents.transaction() as tx:
            await on_attempt(CheckpointSaved(attempt=document), tx=tx, clock=self.clock)

    async def name(self, *kept: Checkpoint, status: TaskStatus = TaskStatus.RUNNING) -> list[Effect]:
        """Say the task's next document; return the effects that follow."""
        self._version += 1
        task = TaskDocument(
            task_id=TASK,
            version=self._version,
            name="x",
            config=TaskConfig(recipe="script"),
            status=status,
            phase=TaskPhase.TRAINING,
            attempt=1,
            checkpoints=list(kept),
            created_at=MOMENT,
            updated_at=MOMENT,
        )
        async with self.documents.transaction() as tx:
            emitted = await on_task(TaskStatusChanged(task=task), tx=tx, clock=self.clock)
        return [one for one in emitted if isinstance(one, Effect) and one.name == SWEEP]

    async def sweep_twice(self, pause: float = GRACE) -> None:
        """Sweep, and again after a while."""
        await self.sweeper.sweep_all()
        await self.clock.sleep(pause)
        await self.sweeper.sweep_all()

    def files(self) -> set[str]:
        return {path.name for path in (self.root / "areas" / area_of(TASK)).glob("??/*")}

    async def parts(self, *checkpoints: Checkpoint) -> set[str]:
        """Return what checkpoints consist of, each file read and verified."""
        found = set()
        for one in checkpoints:
            manifest = CheckpointManifest.model_validate_json(await self.area.read_bytes(one.manifest))
            for file in manifest.files.values():
                assert len(await self.area.read_bytes(file.sha256)) == file.size
            found |= {one.manifest, *(file.sha256 for file in manifest.files.values())}
        return found

    def path_of(self, sha256: str) -> Path:
        return self.root / "areas" / area_of(TASK) / sha256[:2] / sha256

    def age(self, seconds: float) -> None:
        """Let everything that is stored have been written so long ago."""
        for name in self.files():
            status = self.path_of(name).stat()
            os.utime(self.path_of(name), ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    documents = SqliteStore(tmp_path / "result.db", store.COLLECTIONS)
    await documents.open()
    yield Desk(documents, tmp_path / "blobs")
    await documents.close()


async def rows(desk: Desk) -> list[tuple[int, bool, bool]]:
    """Return (step, kept, best) as people see them."""
    task = await store.find_task(desk.documents, TASK)
    assert task is not None
    listed = checkpoint_list(task, await store.checkpoints_of(desk.documents, TASK)).checkpoints
    return [(one.step, one.kept, one.best) for one in listed]


async def test_what_the_document_drops_goes_at_once_and_what_it_keeps_stays_to_the_bit(desk: Desk) -> None:
    saved: list[Checkpoint] = []
    for step in range(10, 70, 10):
        saved.append(await desk.upload(step, score=abs(step - 20) / 10))
        was_kept = kept_of(saved[:-1])
        await desk.announce(*kept_of(saved), version=step)
        effects = await desk.name(*kept_of(saved))
        for effect in effects:
            await desk.sweeper(effect.arguments)
        assert bool(effects) == any(one not in kept_of(saved) for one in was_kept)
        assert desk.files() == await desk.parts(*kept_of(saved))
    assert await rows(desk) == [
        (60, True, False),
        (50, True, False),
        (40, True, False),
        (30, False, False),
        (20, True, True),
        (10, False, False),
    ]


async def test_an_upload_that_nobody_has_heard_of_survives_however_long_kafka_is_away(desk: Desk) -> None:
    old = await desk.upload(10)
    await desk.announce(old)
    await desk.name(old)
    desk.age(7200)
    unheard = [await desk.upload(20), await desk.upload(30)]
    half = await desk.area.write_bytes(b"a file whose manifest is to come")
    desk.age(3600)
    for _ in range(3):
        await desk.sweep_twice()
    assert desk.files() == await desk.parts(old, *unheard) | {half.sha256}


async def test_uploads_survive_sweeps_that_run_beside_them(desk: Desk) -> None:
    """Every checkpoint is whole when the owner names it, with a sweep between any two of its files."""
    done = asyncio.Event()
    saved: list[Checkpoint] = []

    async def sweeps() -> None:
        while not done.is_set():
            await desk.clock.sleep(GRACE)
            await desk.sweeper.sweep(TASK)

    async def uploads() -> None:
        for step in range(16):
            saved.append(await desk.upload(step, shared=str(step % 4).encode()))
            await desk.announce(*kept_of(saved), version=step + 1)
            await desk.name(*kept_of(saved))
            await desk.parts(*kept_of(saved))
        done.set()

    await asyncio.gather(sweeps(), uploads())
    await desk.sweep_twice()
    assert desk.files() == await desk.parts(*kept_of(saved))


async def test_what_an_upload_that_broke_off_has_left_goes_after_the_grace(desk: Desk) -> None:
    half = await desk.area.write_bytes(b"the worker died after this file")
    desk.age(1)
    kept = await desk.upload(20)
    await desk.name(kept)
    await desk.sweep_twice(GRACE - 1)
    assert half.sha256 in desk.files()
    await desk.clock.sleep(1)
    await desk.area.write_bytes(b"the worker died after this file")  # written again: another upload needs it
    desk.age(0)
    await desk.sweeper.sweep_all()
    assert half.sha256 in desk.files()
    os.utime(desk.path_of(half.sha256), (1, 1))
    await desk.sweep_twice()
    assert desk.files() == await desk.parts(kept)


@pytest.mark.parametrize("status", [TaskStatus.COMPLETED, TaskStatus.FAILED, TaskStatus.CANCELLED])
async def test_a_task_that_is_over_keeps_what_it_names_and_loses_the_rest(desk: Desk, status: TaskStatus) -> None:
    kept = [await desk.upload(30, kind=CheckpointKind.FINAL), await desk.upload(20)]
    await desk.upload(40, attempt=7)  # a fenced attempt's, never named
    await desk.announce(*kept)
    await desk.name(*kept, status=status)
    await desk.sweep_twice(GRACE - 1)
    assert len(desk.files()) == 7
    await desk.clock.sleep(1)
    await desk.sweeper.sweep_all()
    assert desk.files() == await desk.parts(*kept)


async def test_a_task_that_is_long_over_and_clean_is_not_looked_at_again(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    kept = await desk.upload(30)
    await desk.name(kept, status=TaskStatus.COMPLETED)
    await desk.clock.sleep(7200)
    await desk.area.write_bytes(b"of a replaced attempt")
    await desk.sweep_twice()
    assert desk.files() == await desk.parts(kept)
    await desk.sweeper.sweep_all()
    desk.path_of(kept.manifest).write_bytes(b"{}")
    await desk.sweeper.sweep_all()
    assert "cannot be read" not in caplog.text
    await Sweeper(desk.documents, desk.blobs, ResultSettings(), FastClock()).sweep_all()
    assert "cannot be read" in caplog.text, "another process looks for itself"


async def test_a_task_that_is_not_known_is_not_touched(desk: Desk) -> None:
    await desk.upload(10)
    desk.age(7200)
    before = desk.files()
    await desk.sweep_twice()
    assert desk.files() == before


@pytest.mark.parametrize("harm", ["damaged", "absent", "no manifest"])
async def test_a_kept_manifest_that_cannot_be_read_stops_the_sweep_of_its_task(
    desk: Desk, harm: str, caplog: pytest.LogCaptureFixture
) -> None:
    saved = [await desk.upload(step) for step in (10, 20, 30)]
    await desk.name(*saved)
    if harm == "no manifest":
        blob = await desk.area.write_bytes(b'{"step": "?"}')
        saved[1] = saved[1].model_copy(update={"manifest": blob.sha256})
    elif harm == "absent":
        desk.path_of(saved[1].manifest).unlink()
    else:
        desk.path_of(saved[1].manifest).write_bytes(b"{}")
    await desk.name(*saved[1:])
    before = desk.files()
    desk.age(7200)
    await desk.sweep_twice()
    assert desk.files() == before
    assert f"{TASK}: a checkpoint that is kept cannot be read, nothing is deleted" in caplog.text


async def test_a_dropped_manifest_that_cannot_be_read_goes_with_the_grace(desk: Desk) -> None:
    saved = [await desk.upload(step) for step in (10, 20)]
    await desk.name(*saved)
    desk.age(1)
    saved.append(await desk.upload(30))
    desk.path_of(saved[0].manifest).write_bytes(b"{}")
    os.utime(desk.path_of(saved[0].manifest), (1, 1))
    await desk.name(*saved[1:])
    await desk.sweep_twice()
    assert desk.files() == await desk.parts(*saved[1:])


async def test_a_file_of_a_dropped_checkpoint_that_was_written_again_is_left(desk: Desk) -> None:
    """The next checkpoint has the same file, and is not announced yet."""
    saved = [await desk.upload(step, shared=b"one") for step in (10, 20)]
    await desk.name(*saved)
    desk.age(1)
    saved.append(await desk.upload(30, shared=b"two"))
    await desk.name(saved[2])
    again = await desk.area.write_bytes(b"one")
    await desk.sweeper.sweep(TASK)
    assert desk.files() == await desk.parts(saved[2]) | {again.sha256}


async def test_the_checks_above_would_notice_a_sweep_that_forgets_what_is_kept(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def forgets(task: TaskDocument, area: object) -> set[str]:
        return {one.manifest for one in task.checkpoints}

    monkeypatch.setattr("services.result.sweeping._needed", forgets)
    old, kept = await desk.upload(10), await desk.upload(20)
    await desk.name(old, kept, status=TaskStatus.COMPLETED)
    await desk.sweep_twice()
    with pytest.raises(Exception, match="no content with sha256"):
        await desk.parts(kept)


async def test_the_index_is_the_same_in_any_order(desk: Desk) -> None:
    saved = [await desk.upload(step) for step in (10, 20, 30, 40)]
    await desk.announce(*saved[2:], attempt=2)  # the owner's word of the first attempt's comes later
    await desk.name(*saved[1:])
    await desk.announce(*saved[:2], attempt=1)
    await desk.announce(*saved[2:], attempt=2)
    assert await rows(desk) == [(40, True, False), (30, True, False), (20, True, False), (10, False, False)]


async def test_the_index_forgets_the_oldest_that_are_gone(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "MOST_ROWS", 5)
    saved = [await desk.upload(step) for step in range(1, 13)]
    for end in range(3, 13):
        await desk.name(*saved[end - 3 : end])
        await desk.sweeper.sweep(TASK)
    assert [step for step, _, _ in await rows(desk)] == [12, 11, 10, 9, 8, 7, 6, 5]
    assert desk.files() == await desk.parts(*saved[-3:])


async def test_what_is_named_while_its_files_go_stays_named(desk: Desk) -> None:
    saved = await desk.upload(10)
    await desk.announce(saved)
    before = await store.checkpoints_of(desk.documents, TASK)
    await desk.name(saved)
    async with desk.documents.transaction() as tx:
        await store.note_gone(tx, before)
    (row,) = await store.checkpoints_of(desk.documents, TASK)
    assert (before[0].named, row.named, row.gone) == (False, True, True)
