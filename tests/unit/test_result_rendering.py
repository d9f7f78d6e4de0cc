"""Rendering while something is away or broken: the store, the blobs, a bundle, the process that draws."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.result import store
from services.result.rendering import TRIES, Artist, CannotDraw, Renderer
from services.result.settings import ResultSettings
from tests.harness import eventually
from tests.integration.runtime_parts import running
from tests.runtime_kit import MOMENT, FastClock
from trainwright.contracts.result import ModelVersion
from trainwright.storage.directory import DirectoryBlobs
from trainwright.storage.sqlite import SqliteStore


class Desk:
    """A renderer with its store and blobs, and the one version whose report is to be made."""

    def __init__(self, folder: Path) -> None:
        self.documents = SqliteStore(folder / "result.db", store.COLLECTIONS)
        self.root = folder / "blobs"
        self.blobs = DirectoryBlobs(self.root)
        settings = ResultSettings()
        self.renderer = Renderer(self.documents, self.blobs, Artist(settings), settings, FastClock())

    async def ask(self, manifest: bytes = b"{}") -> None:
        """Ask for the report of a version that left this manifest."""
        model = ModelVersion(
            model_id="script/x/v1", identity="script/x", number=1, task_id="task-0123456789ab", attempt=1,
            task_name="weekly", recipe="script", bundle=(await self.blobs.write_bytes(manifest)).sha256,
            created_at=MOMENT,
        )  # fmt: skip
        async with self.documents.transaction() as tx:
            await store.save_version(tx, model)
            await store.save_render(tx, store.Render(model_id=model.model_id))

    async def state(self) -> store.Render | None:
        return await store.find_render(self.documents, "script/x/v1")

    async def until_rendered(self) -> None:
        """Wait until the report is there, said once."""

        async def done() -> bool:
            return await self.state() is None

        await eventually(done, within=60, what="the report")
        model = await store.get_version(self.documents, "script/x/v1")
        assert model.report is not None
        assert b"<html" in await self.blobs.read_bytes(model.report)
        assert len(await self.documents.outbox_pending("event", 10)) == 1


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    made = Desk(tmp_path)
    await made.documents.open()
    yield made
    await made.documents.close()


async def test_a_report_waits_for_a_store_and_for_blobs_that_are_away(desk: Desk, caplog: Any) -> None:
    """Neither is the report's fault: no try is counted."""
    await desk.ask()
    await desk.documents.close()
    desk.root.rename(desk.root.with_name("aside"))
    desk.root.write_text("not a folder")
    async with running(desk.renderer.run()):
        await eventually(lambda: "is closed" in caplog.text, within=20, what="a look at the store")
        await desk.documents.open()
        await eventually(lambda: "reports wait: the blob folder" in caplog.text, within=20, what="a first try")
        state = await desk.state()
        assert state is not None
        assert (state.state, state.tries) == ("pending", 0)
        desk.root.unlink()
        desk.root.with_name("aside").rename(desk.root)
        await desk.until_rendered()


async def test_what_cannot_be_drawn_is_given_up_with_the_reason(desk: Desk) -> None:
    await desk.ask(b"no manifest")

    async def failed() -> store.Render | None:
        state = await desk.state()
        return state if state is not None and state.state == "failed" else None

    async with running(desk.renderer.run()):
        state = await eventually(failed, within=20, what="the end of the tries")
    assert state.tries == TRIES
    assert "Expecting value" in state.error
    assert (await store.get_version(desk.documents, "script/x/v1")).report is None


def draws() -> list[psutil.Process]:
    """Return this process's own processes that draw."""
    return [one for one in psutil.Process().children() if "services.result.report" in one.cmdline()]


async def test_the_process_that_draws_says_what_is_wrong_and_is_there_for_the_next(tmp_path: Path) -> None:
    artist = Artist(ResultSettings())
    for name in ("one", "two"):
        with pytest.raises(CannotDraw, match=rf"FileNotFoundError: .*/{name}/job\.json"):
            await artist.draw(tmp_path / name)
    assert len(draws()) == 1
    await artist.stop()
    assert draws() == []


async def test_a_process_that_draws_for_too_long_is_ended(tmp_path: Path) -> None:
    artist = Artist(ResultSettings(render_seconds=0.01))
    with pytest.raises(CannotDraw, match="gave no answer: TimeoutError"):
        await artist.draw(tmp_path)
    assert draws() == []


async def test_an_answer_that_nobody_waits_for_any_more_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    artist = Artist(ResultSettings())
    drawing = asyncio.create_task(artist.draw(tmp_path / "one"))
    (process,) = await eventually(draws, within=20, what="the process", every=0.001)
    process.suspend()  # so that it has not answered when it is not waited for any more
    await eventually(lambda: artist._process, within=20, what="its start")
    drawing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await drawing
    assert draws() == []
    with pytest.raises(CannotDraw, match=r"/two/job\.json"):
        await artist.draw(tmp_path / "two")
    await artist.stop(kill=True)


def test_the_process_that_draws_ends_without_a_word_when_its_reader_is_gone(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "services.result.report"],
        input=f"{json.dumps(str(tmp_path))}\n",
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        timeout=240,
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")
