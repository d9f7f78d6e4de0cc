"""Lead one attempt from one kept state to the next, whatever was killed in between.

What is true is in the store and in the attempt's folder; what is in memory here can be lost at any moment.
Not here: reading commands, publishing metrics and logs, heartbeats.
"""

import asyncio
import logging
import os
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from services.trainer_worker import spawn, store
from services.trainer_worker.bundles import store_bundle
from services.trainer_worker.domain import (
    Attempt,
    AttemptState,
    Read,
    Verdict,
    document,
    ending_of,
    infrastructure,
    judge,
    stopped,
)
from services.trainer_worker.publish import Publisher
from services.trainer_worker.settings import WorkerSettings
from services.trainer_worker.tail import Tail
from trainwright.contracts.attempt import AttemptEnded, AttemptStarted, Failure, FailureClass, Outcome
from trainwright.contracts.base import Event
from trainwright.contracts.errors import Damaged, NotFound, StoreUnavailable
from trainwright.contracts.task import TaskPhase
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import emit
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore
from trainwright.training import layout
from trainwright.training.classify import Ending

logger = logging.getLogger(__name__)

SOURCE = "trainer_worker"
WATCH_SECONDS = 0.05
LOCK_SECONDS = 1.0
BUNDLE_TRIES = 5


@dataclass(frozen=True, slots=True)
class Workplace:
    """What leading an attempt takes."""

    worker_id: str
    incarnation: str
    folder: Path
    agent_lock: Path
    settings: WorkerSettings
    documents: DocumentStore
    blobs: BlobStore
    publisher: Publisher
    clock: Clock


class Lead:
    """Leads one attempt from where it stands to its reported end."""

    def __init__(self, attempt: Attempt, place: Workplace, on_phase: Callable[[str], None]) -> None:
        self.attempt = attempt
        self.directory = place.folder / attempt.key
        self.phase = TaskPhase.STARTING
        self._place = place
        self._on_phase = on_phase
        self._shim: subprocess.Popen[bytes] | None = None
        self._poke = asyncio.Event()
        self._control_revision = 0

    async def run(self) -> None:
        """Lead the attempt until its end is reported; what fails for want of store or disk is tried again."""
        steps: Mapping[AttemptState, Callable[[], Awaitable[None]]] = {
            AttemptState.ACCEPTED: self._start,
            AttemptState.RUNNING: self._watch,
            AttemptState.ENDED: self._report,
        }
        backoff, following = Backoff(self._place.clock), False
        while self.attempt.state in steps:
            try:
                if not following:
                    await self._follow()
                    following = True
                await steps[self.attempt.state]()
                backoff.reset()
            except StoreUnavailable as error:
                logger.warning("%s waits for a store: %s", self.attempt.key, error)
                await backoff.wait()
            except Exception:
                logger.exception("%s: a step failed; it is tried again", self.attempt.key)
                await backoff.wait()
        self._place.publisher.forget(self.attempt.key)

    def refresh(self, attempt: Attempt) -> None:
        """Take note of what a command has changed."""
        self.attempt = attempt
        self._poke.set()

    @property
    def shim_pid(self) -> int | None:
        """Return the pid at the root of the run's processes."""
        if self._shim is not None:
            return self._shim.pid
        pid = (layout.read_json(self.directory / layout.SHIM) or {}).get("shim_pid")
        return pid if isinstance(pid, int) else None

    async def _follow(self) -> None:
        spawn.prepare_folder(self.directory)
        read = await store.read_of(self._place.documents, self.attempt.key)
        self._place.publisher.follow(Tail(self.attempt, self.directory, read))

    async def _start(self) -> None:
        if not (spawn.has_shim(self.directory) or (self.directory / layout.EXIT).exists()):
            if self.attempt.stop is not None:
                await self._end(stopped(self.attempt.stop), self._place.clock.now())
                return
            failure = await self._prepare()
            if failure is not None:
                await self._end(Verdict(Outcome.FAILED, failure), self._place.clock.now())
                return
            if self.attempt.stop is not None:
                return  # it came meanwhile: once more from the top
            self._shim = spawn.start_shim(self.directory, self.attempt)
        await self._change(AttemptStarted, state=AttemptState.RUNNING, started_at=self._place.clock.now())
        self._set_phase(TaskPhase.TRAINING)

    async def _prepare(self) -> Failure | None:
        """Fetch the task's files and write the specification; return why that is impossible, if it is."""
        name = ""
        try:
            work = spawn.prepare_folder(self.directory)
            for file in self.attempt.config.files:
                name = file.path
                await self._place.blobs.read_file(file.sha256, work / name)
            settings = self._place.settings
            spawn.check_data_root(self.attempt.config.data, work, settings.data_roots)
            spawn.write_spec(self.directory, self.attempt, self._place.agent_lock, settings.orphan_seconds)
        except NotFound as error:
            return Failure(
                failure_class=FailureClass.DATA_ERROR, message=f"file {name}: {error.detail}", file=name
            )
        except Damaged as error:
            return Failure(
                failure_class=FailureClass.DATA_ERROR, message=f"file {name}: {error.detail}", file=name
            )
        except FileNotFoundError as error:
            return Failure(failure_class=FailureClass.DATA_ERROR, message=str(error))
        except (ValueError, PermissionError) as error:
            return Failure(failure_class=FailureClass.USER_ERROR, message=str(error))
        except OSError as error:
            return Failure(failure_class=FailureClass.ENVIRONMENT_ERROR, message=f"the run's folder: {error}")
        return None

    async def _watch(self) -> None:
        """Wait for the shim to write the ending; pass on requests to stop."""
        exit_path = self.directory / layout.EXIT
        if self.attempt.stop is None:
            self._set_phase(TaskPhase.TRAINING)
        looked = 0.0
        while not exit_path.exists():
            self._pass_on_stop()
            now = self._place.clock.monotonic()
            gone = self._shim is not None and self._shim.poll() is not None
            if not gone and now - looked > LOCK_SECONDS:
                looked, gone = now, not spawn.has_shim(self.directory)
            if gone and not exit_path.exists():
                await self._end(self._shim_lost(), self._place.clock.now())
                return
            await self._nap()
        exit_file = layout.read_json(exit_path) or {}
        ending = self._ending(exit_file)
        seen = (self.directory / layout.STOPPING).exists()
        verdict = judge(ending, self.attempt.stop, asked=exit_file.get("stop") is not None, stop_seen=seen)
        await self._end(verdict, _moment(exit_file) or self._place.clock.now())

    def _ending(self, exit_file: dict[str, Any]) -> Ending:
        work = os.path.realpath(self.directory / layout.WORK)  # as the kernel names it to the run
        return ending_of(exit_file, spawn.read_tail(self.directory / layout.STDERR), work)

    async def _nap(self) -> None:
        self._poke.clear()
        try:
            await asyncio.wait_for(self._poke.wait(), WATCH_SECONDS)
        except TimeoutError:
            return

    def _pass_on_stop(self) -> None:
        stop = self.attempt.stop
        if stop is not None and stop.revision > self._control_revision:
            spawn.write_control(self.directory, stop)
            text = f"asked to stop ({stop.kind.value}); it is ended in {stop.grace_seconds:g} s if it does not"
            spawn.note(self.directory, text)
            self._control_revision = stop.revision
            self._set_phase(TaskPhase.STOPPING)

    def _shim_lost(self) -> Verdict:
        killed = spawn.kill_leftovers(self.directory)
        if not (self.directory / layout.SPEC).exists():
            hint = "Delete only what the script made itself, in its work folder."
            message = "the run deleted its own folder, so how it ended is not known"
            failure = Failure(failure_class=FailureClass.USER_ERROR, message=message, hint=hint)
            return Verdict(Outcome.FAILED, failure)
        message = f"the process that watches over the run was killed; {killed} processes were left and ended"
        return Verdict(Outcome.FAILED, infrastructure(FailureClass.WORKER_LOST, message))

    async def _end(self, verdict: Verdict, ended_at: datetime) -> None:
        """Keep how the run ended, before anything is said about it."""
        if self._shim is not None:
            self._shim.poll()
        changes = {"outcome": verdict.outcome, "failure": verdict.failure, "ended_at": ended_at}
        await self._change(None, state=AttemptState.ENDED, **changes)

    async def _report(self) -> None:
        """Say how it ended: after everything that it wrote was acknowledged, and its bundle stored."""
        if self._shim is not None and self._shim.poll() is None:
            await self._nap()  # exit.json comes a moment before the shim itself ends
        self._set_phase(TaskPhase.FINISHING)
        await self._place.publisher.drain(self.attempt.key)
        changes: dict[str, Any] = {}
        if self.attempt.outcome is Outcome.COMPLETED:
            changes = await self._bundle()
        changes |= {"state": AttemptState.REPORTED, "reported_at": self._place.clock.now()}
        await self._change(AttemptEnded, **changes)
        if self._shim is not None:
            await asyncio.to_thread(self._shim.wait)

    async def _bundle(self) -> dict[str, Any]:
        place, last = self._place, OSError()
        backoff = Backoff(place.clock)
        for _ in range(BUNDLE_TRIES):
            try:
                manifest = await store_bundle(self.directory, self.attempt, place.worker_id, place.blobs)
                return {"bundle": manifest}
            except OSError as error:
                last = error
                logger.warning("%s: the bundle cannot be packed: %s", self.attempt.key, error)
                await backoff.wait()
        failure = infrastructure(FailureClass.ENVIRONMENT_ERROR, f"what the run left cannot be kept: {last}")
        return {"outcome": Outcome.FAILED, "failure": failure}

    async def _change(self, kind: type[AttemptStarted] | type[AttemptEnded] | None, **changes: Any) -> None:
        """Keep a change of the attempt and the event that says it, in one transaction."""
        place = self._place
        read = place.publisher.read(self.attempt.key) or Read()
        async with place.documents.transaction() as tx:
            fresh = await store.attempt_of(tx, self.attempt.key) or self.attempt
            changed = fresh.model_copy(update=changes)
            await store.put_attempt(tx, changed)
            if kind is not None:
                event: Event = kind(attempt=document(changed, place.worker_id, place.incarnation, read))
                cause = Cause(derived_id(place.worker_id, changed.key, kind.__name__))
                await emit(tx, [event], source=SOURCE, cause=cause, clock=place.clock)
        self.attempt = changed

    def _set_phase(self, phase: TaskPhase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self._on_phase(self.attempt.key)


def _moment(exit_file: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(exit_file.get("ended_at")))
    except ValueError:
        return None
