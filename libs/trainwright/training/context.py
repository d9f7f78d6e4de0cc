"""The run context: what a recipe or a user's own script trains through, in a worker or alone.

`init()` finds out where it is. In a worker (TRAINWRIGHT_RUN_DIR is set) the run reads its parameters from
the task and reports through the spool; anywhere else it is a local twin that writes the same files to a
folder and prints its progress.
Not here: how a checkpoint is made and read (saving.py), Kafka, what the agent does with the files.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from trainwright.training import layout
from trainwright.training.hot import Hot
from trainwright.training.local import RESUME_VARIABLE, new_folder
from trainwright.training.progress import ProgressLine
from trainwright.training.spool import MAX_PAYLOAD, SpoolWriter, claim, encode_record
from trainwright.training.values import STEP_END, checked_metrics, checked_step

if TYPE_CHECKING:
    from trainwright.training.saving import Resumed, Saver

FLUSH_SECONDS = 0.02
SYNC_SECONDS = 1.0
QUEUE_LIMIT = 8192

_current: "Run | None" = None


def init(
    parameters: Mapping[str, Any] | None = None, name: str | None = None, resume: bool | None = None
) -> "Run":
    """Return this process's run; the first call starts it.

    `parameters` are the script's defaults: a task's own parameters win over them. `name` names the folder
    of a local run; with `resume`, or TRAINWRIGHT_RESUME=1 in the environment, such a run goes on from the newest
    whole checkpoint of that name (in a worker the platform decides). Called again without arguments it
    returns the same run; RuntimeError when another process of the run already reports.
    """
    global _current
    if _current is not None and not _current.finished:
        if parameters is None and name is None and resume is None:
            return _current
        if _current.in_worker:
            _current.parameters = {**dict(parameters or {}), **_current.parameters}
            return _current
        _current.finish()
    directory = os.environ.get(layout.RUN_DIR_VARIABLE)
    if directory:
        _current = _worker_run(Path(directory), parameters)
    else:
        again = os.environ.get(RESUME_VARIABLE) == "1" if resume is None else resume
        folder, label = new_folder(parameters or {}, name, again)
        _current = Run(folder, dict(parameters or {}), in_worker=False, name=label)
    return _current


class Run:
    """Report a training: `log()` what it reaches, `checkpoint()` it, ask `should_stop()`, leave files in `output`.

    `parameters` is a plain dict; `output` a folder whose files are kept with the result; `directory` the
    run's own folder. Safe to call from several threads of the process that called `init()`; not from forked
    ones (RuntimeError).
    """

    def __init__(
        self, directory: Path, parameters: dict[str, Any], *, in_worker: bool, name: str, hot: Hot | None = None
    ) -> None:
        self.directory = directory
        self.parameters = parameters
        self.name = name
        self.in_worker = in_worker
        self.finished = False
        self.output = directory / layout.BUNDLE
        self.output.mkdir(parents=True, exist_ok=True)
        self._writer_lock = claim(directory / layout.SPOOL)
        self._writer = SpoolWriter(directory / layout.SPOOL)
        self._seq = self._writer.last_seq
        self._queue: deque[bytes] = deque()
        self._log_lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._wake = threading.Event()
        self._stop_requested = False
        self._stop_seen = False
        self._stop_noted = False
        self._control_stamp: tuple[int, int] | None = None
        self._saves = False
        self._asked = False
        self._habits_noted = (False, False)
        self._saver_made: Saver | None = None
        self._saver_lock = threading.Lock()
        self._hot = hot or Hot({})
        self._step = self._hot.resume_step
        self._total: int | None = None
        self._synced_at = time.monotonic()
        self._progress = None if in_worker else ProgressLine()
        self._foreign = False
        _runs.add(self)
        self._thread = threading.Thread(target=self._flush_forever, name="trainwright-flush", daemon=True)
        self._thread.start()

    def log(self, step: int, metrics: Mapping[str, Any], total_steps: int | None = None) -> None:
        """Record the values reached at `step`; returns at once, the values reach the disk within about 20 ms.

        `step` counts from 0 or 1 as the script likes; `total_steps`, given once or always, makes a
        percentage possible.
        """
        if type(step) is not int or not 0 <= step < STEP_END:
            step = checked_step(step)
        if total_steps is not None:
            total_steps = checked_step(total_steps, "total_steps")
        total = (self._total if total_steps is None else total_steps) or None  # of 0 there is no percentage
        values = checked_metrics(metrics)
        with self._log_lock:
            if self.finished or self._foreign:
                self._refuse()
            payload = encode_record((self._seq + 1, time.time(), step, total, values))
            if len(payload) > MAX_PAYLOAD:
                raise ValueError(
                    f"one log() call holds {len(payload)} bytes of metrics; the limit is {MAX_PAYLOAD}"
                )
            self._seq += 1
            self._step = step
            self._queue.append(payload)
            if self._progress is not None:
                self._progress.update(step, values, total)
            full = len(self._queue) >= QUEUE_LIMIT
        if full:
            self.flush()

    def should_stop(self) -> bool:
        """Return True once the task was asked to stop: save what is needed and leave the training loop.

        Called between two steps, on several workers by every rank; changed `parameters` hold from here on.
        """
        self._asked = True
        stop = self._hot.between_steps(self, self._step + 1, self._stop_requested)
        self._stop_seen = self._stop_seen or stop
        return stop

    @property
    def stopping(self) -> bool:
        """Whether `should_stop()` has said so."""
        return self._stop_seen

    @property
    def resumed(self) -> "Resumed | None":
        """Where this run goes on: `.step`, and `.state[name]` of each part; None when it begins."""
        return self._saver.resumed

    def resume(self, **parts: Any) -> int:
        """Load the parts from the checkpoint that this run goes on from and return its step; 0 to begin.

        A part has `load_state_dict()`, or is a dict, list, array or tensor, which is filled in place. The random
        generators are set last, so build everything before. CheckpointError names a file that is damaged,
        or the parts that there are when one is missing.
        """
        return self._saver.resume(parts)

    def checkpoint(
        self,
        step: int,
        *,
        score: float | None = None,
        greater_is_better: bool = False,
        final: bool = False,
        wait: bool = False,
        **parts: Any,
    ) -> None:
        """Save the parts and the random generators as they are after `step`; log that step before.

        Returns when the state is copied; with `wait`, when `final`, and when the run is stopping, once it
        is on the disk. A disk that refuses is a warning on stderr. TypeError names the place of what cannot
        be saved: parts are objects with `state_dict()`, or plain values, arrays and tensors.
        """
        step = checked_step(step)
        if self.finished or self._foreign:
            self._refuse("checkpoint")
        self._saves = True
        kind = "final" if final else "stop" if self._stop_seen else "periodic"
        value = None if score is None else checked_metrics({"score": score})["score"]
        wait = wait or kind != "periodic"
        self._saver.save(step, parts, kind, score=value, greater_is_better=greater_is_better, wait=wait)

    def checkpoint_due(
        self, every_steps: int | None = None, every_seconds: float | None = None, *, step: int | None = None
    ) -> bool:
        """Return whether to save now: `step` has reached a multiple of `every_steps`, or the last save was
        `every_seconds` ago (60 when neither is given) and the disk is done with it.
        """
        return self._saver.due(step, every_steps, every_seconds)

    def steps(
        self,
        total: int,
        checkpoint_every: int | None = None,
        checkpoint_seconds: float | None = None,
        **parts: Any,
    ) -> Iterator[int]:
        """Resume the parts and iterate over the steps that are left, up to `total`; save when it is due (every
        60 s when nothing is said), when the run is asked to stop, which ends the loop, and at the end.

        What the body raises passes through, and nothing is saved then.
        """
        total = checked_step(total, "total")
        done = self.resume(**parts)
        self._total, self._saves = total or None, True
        self._hot.parts = parts
        return self._steps(done, total, checkpoint_every, checkpoint_seconds, parts)

    def _steps(
        self, done: int, total: int, every: int | None, seconds: float | None, parts: dict[str, Any]
    ) -> Iterator[int]:
        for step in range(done + 1, total + 1):
            self._hot.at(self, step)
            yield step
            if step == total:
                self.checkpoint(step, final=True, **parts)
            elif self.should_stop():
                self.checkpoint(step, **parts)
                return
            elif self.checkpoint_due(every, seconds, step=step):
                self.checkpoint(step, **parts)

    @property
    def given(self) -> dict[str, Any]:
        """The parameters as they were before any was changed while the task ran."""
        return dict(self._hot.given if self.in_worker else self.parameters)

    def accepts(self, check: Callable[[dict[str, Any]], object]) -> None:
        """Ask `check` with all parameters before changed ones are taken over; what it raises refuses them."""
        self._hot.check = check

    def change_rate(self, parts: Mapping[str, Any], old: float, new: float) -> None:
        """Let another learning rate hold in every optimiser among the parts, schedules keep their shape."""
        self._saver.change_rate(parts, old, new)

    def finish(self) -> None:
        """Write out what was logged and saved; called by itself when the process ends. Later calls of `log()`
        and `checkpoint()` are refused.
        """
        if self._foreign:
            return
        with self._log_lock:
            if self.finished:
                return
            self.finished = True
        if self._saver_made is not None:
            self._saver_made.close()
        self._wake.set()
        self._thread.join()
        self.flush()
        self._leave_notes()
        self._writer.close()
        _runs.discard(self)
        os.close(self._writer_lock)
        if self._progress is not None:
            from trainwright.training.bundle import write_history

            write_history(self.directory)
            self._progress.close(self.directory)

    @property
    def _saver(self) -> "Saver":
        if self._saver_made is None:
            # Here and not above: a script that never saves need not load what the files are checked with.
            from trainwright.training.saving import Saver

            with self._saver_lock:
                if self._saver_made is None:
                    self._saver_made = Saver(self)
        return self._saver_made

    def warn(self, text: str) -> None:
        """Tell people on stderr."""
        with suppress(OSError, ValueError):  # it was closed
            sys.stderr.write(f"trainwright: {text}\n")
            sys.stderr.flush()

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def _refuse(self, call: str = "log") -> None:
        if self._foreign:
            raise RuntimeError(
                f"run.{call}() was called in a forked process (a data loader's worker?); call it where init() was"
            )
        raise RuntimeError(f"run.{call}() was called after run.finish()")

    def _flush_forever(self) -> None:
        while not self._wake.wait(FLUSH_SECONDS):
            try:
                self.flush()
                self._read_control()
                self._leave_notes()
                if self._progress is not None:
                    self._progress.show()
            except OSError:
                # A full disk: what is queued stays queued; once the queue is full the
                # training thread gets the error.
                self._wake.wait(1.0)

    @property
    def last_seq(self) -> int:
        """The number of the newest record."""
        return self._seq

    def flush(self) -> None:
        """Hand what was logged to the operating system; OSError when the disk refuses it."""
        with self._flush_lock:
            payloads = list(self._queue)
            if payloads:
                self._writer.append(payloads)
                for _ in payloads:
                    self._queue.popleft()
            now = time.monotonic()
            if now - self._synced_at >= SYNC_SECONDS:
                self._synced_at = now
                self._writer.sync()

    def _read_control(self) -> None:
        """Set the stop flag when control.json says so; a replaced file is told by its inode and time."""
        path = self.directory / layout.CONTROL
        try:
            status = path.stat()
        except FileNotFoundError:
            return
        stamp = (status.st_ino, status.st_mtime_ns)
        if stamp == self._control_stamp:
            return
        self._control_stamp = stamp
        control = layout.read_json(path) or {}
        self._stop_requested = control.get("stop") is not None
        self._hot.hear(control.get("parameters") or [])

    def _leave_notes(self) -> None:
        """Leave notes for the agent: whether the script has seen the request, and what it has ever asked for."""
        if self._stop_seen and not self._stop_noted:
            layout.write_json(self.directory / layout.STOPPING, {"seen": True})
            self._stop_noted = True
        habits = (self._asked, self._saves)
        if self.in_worker and habits != self._habits_noted:
            layout.write_json(self.directory / layout.HABITS, {"asks_stop": habits[0], "saves": habits[1]})
            self._habits_noted = habits


def _worker_run(directory: Path, parameters: Mapping[str, Any] | None) -> Run:
    spec = layout.read_json(directory / layout.SPEC) or {}
    hot = Hot(spec)
    merged = {**dict(parameters or {}), **hot.live}
    kind = import_module("trainwright.training.follower").Follower if spec.get("rank") else Run
    run: Run = kind(directory, merged, in_worker=True, name=str(spec.get("name") or directory.name), hot=hot)
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _leave)
    return run


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process as an exit, so that `finally` blocks and the last flush happen."""
    raise SystemExit(128 + number)


_runs: set[Run] = set()


def _finish_all() -> None:
    for run in list(_runs):
        run.finish()


def _disown_all() -> None:
    """In a forked child: the thread is gone and locks may be held for ever, so touch neither."""
    for run in _runs:
        run._foreign = True
        run._log_lock = threading.Lock()


atexit.register(_finish_all)
os.register_at_fork(after_in_child=_disown_all)
