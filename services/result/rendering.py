"""Render reports one after the other, in a process of their own that lives only while there is work.

What is to be rendered stands in the store, so a kill at any moment loses nothing: it is rendered again, and the
same content has the same name. Not here: how a report looks (``report/``).
"""

import asyncio
import json
import logging
import sys
from pathlib import Path
from typing import Any

from services.result import folders, store
from services.result.handlers import report_rendered
from services.result.settings import ResultSettings
from trainwright.contracts.attempt import BundleFile
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.result import ModelVersion
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import emit
from trainwright.runtime.telemetry.names import RENDER
from trainwright.runtime.telemetry.tracing import TRACING
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore

logger = logging.getLogger(__name__)

DRAWN = ("history.json", "metrics.json", "forecasts.csv", "future.csv", "series.json")
"""Files of a bundle that a report is made from."""

TRIES = 3


class CannotDraw(Exception):
    """The process that draws did not do it; the message says why."""


class Artist:
    """The process that draws: started when needed, ended when idle, killed when it takes too long.

    A process and not a thread, and not a pool of them: matplotlib's 60 MiB are there only while reports are made,
    and its end needs nothing but a closed pipe, also when this process was killed.
    """

    def __init__(self, settings: ResultSettings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None

    async def draw(self, folder: Path) -> None:
        """Make `report.html` (and `loss_curve.png`, if there is a loss) out of what lies in a folder.

        Raises:
            CannotDraw: It failed, ended, or took too long.
        """
        process = self._process or await self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(f"{json.dumps(str(folder))}\n".encode())
            await process.stdin.drain()
            answer = await asyncio.wait_for(process.stdout.readline(), self._settings.render_seconds)
        except (OSError, TimeoutError) as error:
            await self.stop(kill=True)
            raise CannotDraw(f"the process that draws gave no answer: {error!r}") from error
        except BaseException:
            await self.stop(kill=True)
            raise
        if not answer:
            await self.stop(kill=True)
            raise CannotDraw("the process that draws ended")
        if error_text := json.loads(answer).get("error"):
            raise CannotDraw(str(error_text))

    async def stop(self, *, kill: bool = False) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        process.stdin.close()
        if kill and process.returncode is None:
            process.kill()
        await process.wait()

    async def _start(self) -> asyncio.subprocess.Process:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.result.report",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        return self._process


class Renderer:
    """Renders what is pending, until cancelled."""

    def __init__(
        self, documents: DocumentStore, blobs: BlobStore, artist: Artist, settings: ResultSettings, clock: Clock
    ) -> None:
        self._documents = documents
        self._blobs = blobs
        self._artist = artist
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        """Render until cancelled."""
        backoff = Backoff(self._clock)
        await asyncio.to_thread(folders.sweep)
        try:
            while True:
                committed = self._documents.next_commit()
                try:
                    pending = await store.next_render(self._documents)
                    if pending is not None:
                        await self._render(pending)
                        backoff.reset()
                        continue
                except StoreUnavailable as error:
                    logger.warning("reports wait: %s", error)
                    await backoff.wait()
                    continue
                await self._idle(committed)
        finally:
            await self._artist.stop(kill=True)

    async def _idle(self, committed: Any) -> None:
        try:
            async with asyncio.timeout(self._settings.idle_seconds):
                await committed
        except TimeoutError:
            await self._artist.stop()

    async def _render(self, pending: store.Render) -> None:
        try:
            with TRACING.begin(RENDER, "result", RENDER.name, pending.traceparent, dict) as span:
                await self._draw(pending.model_id, span.traceparent)
        except StoreUnavailable:
            raise
        except Exception as error:
            tries = pending.tries + 1
            logger.warning("the report of %s failed (%d of %d): %s", pending.model_id, tries, TRIES, error)
            state = "pending" if tries < TRIES else "failed"
            changes = {"tries": tries, "error": str(error)[:2000], "state": state}
            async with self._documents.transaction() as tx:
                await store.save_render(tx, pending.model_copy(update=changes))

    async def _draw(self, model_id: str, traceparent: str | None) -> None:
        model = await store.get_version(self._documents, model_id)
        async with folders.folder() as folder:
            await self._fetch(model, folder)
            await self._artist.draw(folder)
            report = await self._blobs.write_file(folder / "report.html")
            curve = await self._curve(folder / "loss_curve.png")
        async with self._documents.transaction() as tx:
            events = await report_rendered(model_id, report.sha256, curve, tx=tx)
            cause = Cause(derived_id("result", "render", model_id, report.sha256), traceparent)
            await emit(tx, events, source="result", cause=cause, clock=self._clock)

    async def _curve(self, path: Path) -> BundleFile | None:
        if not await asyncio.to_thread(path.is_file):
            return None
        blob = await self._blobs.write_file(path)
        return BundleFile(sha256=blob.sha256, size=blob.size)

    async def _fetch(self, model: ModelVersion, folder: Path) -> None:
        """Lay out what a report is made from."""
        task = await store.find_task(self._documents, model.task_id)
        attempts = await store.attempts_of(self._documents, task) if task else []
        manifest = await self._blobs.read_bytes(model.bundle)
        job = {
            "model": model.model_dump(mode="json"),
            "task": task.model_dump(mode="json") if task else None,
            "attempts": [attempt.model_dump(mode="json") for attempt in attempts],
            "metadata": json.loads(manifest).get("metadata", {}),
        }
        await asyncio.to_thread((folder / "job.json").write_text, json.dumps(job), encoding="utf-8")
        for name in DRAWN:
            file = model.files.get(name)
            if file is not None and file.size <= self._settings.drawn_limit:
                await self._blobs.read_file(file.sha256, folder / "bundle" / name)
