"""Lead one attempt from one kept state to the next, whatever was killed in between.

What is true is in the store and in the attempt's folder; what is in memory here can be lost at any moment.
Not here: reading commands, publishing metrics and logs, heartbeats, storing checkpoints (`checkpoints.py`).
"""

import asyncio
import logging
import os
import subprocess
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import datetime
from typing import Any

from services.trainer_worker import figures, gang, spawn, store
from services.trainer_worker.bundles import store_bundle
from services.trainer_worker.checkpoints import COMPLETED_TRIES, GIVE_UP_TRIES, Uploads, remove_local
from services.trainer_worker.domain import (
    Attempt,
    AttemptState,
    Read,
    Stop,
    StopCause,
    answer_in_words,
    with_answers,
    with_changes,
)
from services.trainer_worker.place import SOURCE, Workplace
from services.trainer_worker.prepare import prepare
from services.trainer_worker.tail import Tail
from services.trainer_worker.verdict import Asked, Verdict, ending_of, infrastructure, judge, stopped
from services.trainer_worker.watching import Watcher
from trainwright import crash
from trainwright.contracts.attempt import (
    AttemptEnded,
    AttemptEvent,
    AttemptStarted,
    CheckpointSaved,
    Outcome,
    ParametersApplied,
    ParametersRejected,
)
from trainwright.contracts.checkpoint import Checkpoint, kept_of
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.gang import MemberEnded
from trainwright.contracts.task import TaskPhase
from trainwright.runtime.clock import Backoff, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import emit
from trainwright.training import layout

logger = logging.getLogger(__name__)

WATCH_SECONDS = 0.05
LOCK_SECONDS = 1.0
BUNDLE_TRIES = 5
_GOES_ON = (StopCause.PAUSE, StopCause.IDLE, StopCause.PREEMPT, StopCause.WORKER_STOPS, StopCause.TIMED_OUT)


class Lead:
    """Leads one attempt from where it stands to its reported end."""

    def __init__(self, attempt: Attempt, place: Workplace, on_phase: Callable[[str], None]) -> None:
        self.attempt = attempt
        self.directory = place.folder / attempt.key
        self.phase = TaskPhase.STARTING
        self._place = place
        self._on_phase = on_phase
        self._shim: subprocess.Popen[bytes] | None = None
        self._adopted_pid: int | None = None
        self._poke = asyncio.Event()
        self._changing = asyncio.Lock()
        self._passed_on: tuple[Stop | None, int] = (None, 0)
        self._heard: tuple[int, int] | None = None
        self._watcher: Watcher | None = None
        self._saving: asyncio.Task[None] | None = None
        self._uploads = Uploads(
            self.directory,
            place.blobs,
            place.clock,
            attempt=lambda: self.attempt,
            holds_back=self._holds_back,
            keep=self._keep_checkpoint,
        )
        self._habits: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Lead the attempt until its end is reported; what fails for want of store or disk is tried again."""
        steps: Mapping[AttemptState, Callable[[], Awaitable[None]]] = {
            AttemptState.ACCEPTED: self._start,
            AttemptState.RUNNING: self._watch,
            AttemptState.ENDED: self._report,
        }
        try:
            await self._walk(steps)
        finally:
            if self._watcher is not None:
                self._watcher.close()
            if self._saving is not None:
                self._saving.cancel()
                await asyncio.gather(self._saving, return_exceptions=True)

    async def _walk(self, steps: Mapping[AttemptState, Callable[[], Awaitable[None]]]) -> None:
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

    def refresh(self, found: Attempt) -> None:
        """Take note of what a command has changed."""
        mine, stop = self.attempt.stop, found.stop
        both = mine if stop is None or stop == mine else stop if mine is None else mine.then(stop)
        changes = with_changes(self.attempt.parameter_changes, found.parameter_changes)
        news = {"stop": both, "parameter_changes": changes, "concluded": found.concluded}
        if any(getattr(self.attempt, name) != value for name, value in news.items()):
            self.attempt = self.attempt.model_copy(update=news)
            self._poke.set()

    @property
    def shim_pid(self) -> int | None:
        """Return the pid at the root of the run's processes."""
        if self._shim is not None:
            return self._shim.pid
        if self._adopted_pid is None:
            pid = (layout.read_json(self.directory / layout.SHIM) or {}).get("shim_pid")
            self._adopted_pid = pid if isinstance(pid, int) else None
        return self._adopted_pid

    def has(self, habit: str) -> bool:
        """Return whether the run has so far shown a habit: it `asks_stop` (if it should), it `saves`."""
        if habit not in self._habits:
            found = layout.read_json(self.directory / layout.HABITS) or {}
            self._habits = frozenset(name for name, shown in found.items() if shown is True)
        return habit in self._habits

    async def _follow(self) -> None:
        spawn.prepare_folder(self.directory)
        read = await store.read_of(self._place.documents, self.attempt.key)
        self._place.publisher.follow(Tail(self.attempt, self.directory, read))

    async def _start(self) -> None:
        if not (spawn.has_shim(self.directory) or (self.directory / layout.EXIT).exists()):
            failure = await self._unless_stopped(prepare(self.attempt, self.directory, self._place))
            if self.attempt.stop is not None:
                await self._end(stopped(self.attempt.stop), self._place.clock.now())
                return
            if failure is not None:
                await self._end(Verdict(Outcome.FAILED, failure), self._place.clock.now())
                return
            crash.point("agent.prepared")
            self._shim = spawn.start_shim(self.directory, self.attempt)
            crash.point("agent.started")
        changes = {
            "state": AttemptState.RUNNING,
            "started_at": spawn.moment(layout.read_json(self.directory / layout.SHIM) or {}, "started_at")
            or self._place.clock.now(),
            "resume_step": spawn.resume_step(self.directory),
        }
        await self._change(AttemptStarted if self.attempt.speaks else None, changes)

    async def _unless_stopped(self, preparing: Coroutine[Any, Any, Failure | None]) -> Failure | None:
        """Prepare until it is done or a stop comes: a large checkpoint must not keep a cancelled task."""
        task = asyncio.create_task(preparing)
        try:
            while self.attempt.stop is None and not task.done():
                await self._nap(task)
            return task.result() if task.done() else None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        """Wait for the shim to write the ending; pass on requests to stop."""
        exit_path = self.directory / layout.EXIT
        if self.attempt.stop is None:
            self._set_phase(TaskPhase.TRAINING)
        if self._saving is None and self.attempt.speaks:
            self._saving = asyncio.create_task(self._uploads.run())
        if self._watcher is None:
            self._watcher = Watcher(self.attempt, self.directory, self._place)
        looked = 0.0
        while not exit_path.exists():
            watches = self.attempt.stop is None and self.attempt.speaks
            if watches and (stop := self._watcher.look(self.shim_pid)) is not None:
                await self._change(None, {}, stop=stop)
            self._pass_on()
            await self._hear_answers()
            now = self._place.clock.monotonic()
            gone = self._shim is not None and self._shim.poll() is not None
            if not gone and now - looked > LOCK_SECONDS:
                looked, gone = now, not spawn.has_shim(self.directory)
            if gone and not exit_path.exists():
                await self._end(self._shim_lost(), self._place.clock.now())
                return
            await self._nap()
        exit_file = layout.read_json(exit_path) or {}
        await self._end(self._verdict(exit_file), spawn.moment(exit_file, "ended_at") or self._place.clock.now())

    def _verdict(self, exit_file: dict[str, Any]) -> Verdict:
        work = os.path.realpath(self.directory / layout.WORK)  # as the kernel names it to the run
        ending = ending_of(exit_file, spawn.read_tail(self.directory / layout.STDERR), work)
        asked = Asked(
            heard=exit_file.get("stop") is not None,
            seen=(self.directory / layout.STOPPING).exists(),
            signalled=exit_file.get("signalled") is True,
        )
        return judge(ending, self.attempt.stop, asked)

    async def _nap(self, *work: asyncio.Task[Any]) -> None:
        """Wait a moment, less when a command or some work's end comes before."""
        self._poke.clear()
        poked = asyncio.ensure_future(self._poke.wait())
        await asyncio.wait({poked, *work}, timeout=WATCH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        poked.cancel()

    def _pass_on(self) -> None:
        """Hand the run what commands have brought: a request to stop, changed parameters."""
        stop, changes = self.attempt.stop, self.attempt.parameter_changes
        if (stop, len(changes)) != self._passed_on:
            wrote = spawn.write_control(self.directory, stop, changes)
            if wrote and stop is not None and stop != self._passed_on[0]:
                spawn.note(self.directory, self._request_in_words(stop))
            self._passed_on = (stop, len(changes))
        if stop is not None:
            seen = (self.directory / layout.STOPPING).exists()
            self._set_phase(TaskPhase.CHECKPOINTING if seen else TaskPhase.STOPPING)

    async def _hear_answers(self) -> None:
        """Tell what the run did about changed parameters, as it wrote it down before it took the step."""
        try:
            status = (self.directory / layout.PARAMETERS).stat()
        except OSError:
            return
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp == self._heard:
            return
        found = (layout.read_json(self.directory / layout.PARAMETERS) or {}).get("answers")
        for answer in with_answers(self.attempt.answers, found)[len(self.attempt.answers) :]:
            kind = ParametersApplied if answer.error is None else ParametersRejected
            await self._change(kind, {"answers": [*self.attempt.answers, answer]})
            spawn.note(self.directory, answer_in_words(self.attempt.parameter_changes, answer))
        self._heard = stamp

    def _request_in_words(self, stop: Stop) -> str:
        soon = f"it is ended in {stop.grace_seconds:g} s if it does not" if stop.grace_seconds else "it is ended"
        text = f"asked to stop ({stop.kind.value}); {soon}"
        if self.has("asks_stop") or stop.kind not in _GOES_ON:
            return text
        return f"{text}: it has never asked if it should; later it goes on {self._last_good()}"

    def _last_good(self) -> str:
        steps = [one.step for one in self.attempt.checkpoints] + [self.attempt.resume_step]
        return f"from its checkpoint of step {max(steps)}" if max(steps) else "from the beginning"

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
        kind = MemberEnded if self.attempt.members else None
        await self._change(kind, {"state": AttemptState.ENDED, **changes})
        crash.point("agent.ended")

    async def _report(self) -> None:
        """Say how it ended: after everything that it wrote was acknowledged, and its bundle stored."""
        if self._shim is not None and self._shim.poll() is None:
            await self._nap()  # exit.json comes a moment before the shim itself ends
        self._set_phase(TaskPhase.FINISHING)
        if not self.attempt.speaks:
            await self._place.publisher.drain(self.attempt.key)
            over = {"state": AttemptState.REPORTED, "reported_at": self._place.clock.now()}
            await self._change(None, over)
            await asyncio.to_thread(remove_local, self.directory)
            return
        if self.attempt.members:
            await self._hear_of_all()
        await self._hear_answers()
        self._uploads.stop()
        if self._saving is not None:
            await self._saving
        await self._uploads.finish(self._patience)
        await self._place.publisher.drain(self.attempt.key)
        changes: dict[str, Any] = {}
        if self.attempt.outcome is Outcome.COMPLETED:
            changes = await self._bundle()
        elif self._is_cancelled() and self.attempt.outcome in (Outcome.PAUSED, Outcome.INTERRUPTED):
            changes = {"outcome": Outcome.CANCELLED, "failure": None}  # it came while its checkpoints waited
        changes |= {"state": AttemptState.REPORTED, "reported_at": self._place.clock.now()}
        await self._change(AttemptEnded, changes)
        crash.point("agent.reported")
        await asyncio.to_thread(remove_local, self.directory)
        if self._shim is not None:
            await asyncio.to_thread(self._shim.wait)

    async def _hear_of_all(self) -> None:
        """Say now and then that this member is over, until all are; take over what their ends together mean."""
        clock = self._place.clock
        told = clock.monotonic()
        while (verdict := gang.said_of_all(self.attempt)) is None:
            await self._nap()
            if clock.monotonic() - told > gang.TOLD_EVERY:
                await self._change(MemberEnded, {})
                told = clock.monotonic()
        await self._change(None, {"outcome": verdict.outcome, "failure": verdict.failure})

    async def _keep_checkpoint(self, checkpoint: Checkpoint) -> None:
        await self._change(CheckpointSaved, {"checkpoints": kept_of([*self.attempt.checkpoints, checkpoint])})

    def _holds_back(self, step: int) -> bool:
        """Return whether a checkpoint is not worth storing (yet): a state that is no number any more."""
        if self.attempt.state is AttemptState.RUNNING:
            return self._watcher is not None and self._watcher.holds_back(step)
        failure = self.attempt.failure
        bad_step = failure.bad_step if failure is not None else None
        return bad_step is not None and step >= bad_step

    def _patience(self) -> int | None:
        """Return after how many tries the end is told even if no store takes the checkpoints; None: never."""
        failure = self.attempt.failure
        ran_out = failure is not None and failure.failure_class is FailureClass.TIMED_OUT
        failed = self.attempt.outcome is Outcome.FAILED and not ran_out
        if failed or self.attempt.outcome is Outcome.CANCELLED or self._is_cancelled():
            return GIVE_UP_TRIES  # nothing goes on
        return COMPLETED_TRIES if self.attempt.outcome is Outcome.COMPLETED else None

    def _is_cancelled(self) -> bool:
        return self.attempt.stop is not None and self.attempt.stop.kind is StopCause.CANCEL

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

    async def _change(
        self, kind: type[AttemptEvent | MemberEnded] | None, changes: Mapping[str, Any], stop: Stop | None = None
    ) -> None:
        """Keep a change of the attempt and the event that says it, in one transaction; a stop of our own never
        takes the place of a weightier one that a command has brought meanwhile.
        """
        place = self._place
        read = place.publisher.read(self.attempt.key) or Read()
        async with self._changing:
            async with place.documents.transaction() as tx:
                fresh = await store.attempt_of(tx, self.attempt.key) or self.attempt
                if kind is CheckpointSaved and fresh.is_fenced:
                    return
                said: dict[str, Any] = {"version": fresh.version + 1} if kind is not None else {}
                if stop is not None:
                    said["stop"] = stop if fresh.stop is None else fresh.stop.then(stop)
                changed = fresh.model_copy(update={**changes, **said})
                await store.put_attempt(tx, changed)
                if kind is not None:
                    event = gang.event_of(kind, changed, place.worker_id, place.incarnation, read)
                    id = derived_id(place.worker_id, changed.key, changed.version)
                    cause = Cause(id, changed.traceparent)
                    await emit(tx, [event], source=SOURCE, cause=cause, clock=place.clock)
            self.attempt = changed
        if kind is AttemptStarted:
            figures.started()
        elif kind is AttemptEnded:
            figures.ended(changed)

    def _set_phase(self, phase: TaskPhase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self._on_phase(self.attempt.key)
