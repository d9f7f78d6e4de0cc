"""The run context: what a recipe or a user's own script trains through, in a worker or alone.

`init()` finds out where it is. In a worker (TRAINWRIGHT_RUN_DIR is set) the run reads its parameters from
the task and reports through the spool; anywhere else it is a local twin that writes the same files to a
folder and prints its progress.
Not here: checkpoints and resuming, Kafka, what the agent does with the files.
"""

import atexit
import fcntl
import os
import re
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from trainwright.training import layout
from trainwright.training.progress import ProgressLine
from trainwright.training.spool import MAX_PAYLOAD, SpoolWriter, encode_record
from trainwright.training.values import STEP_END, checked_metrics, checked_step

FLUSH_SECONDS = 0.02
SYNC_SECONDS = 1.0
QUEUE_LIMIT = 8192

_current: "Run | None" = None


def init(parameters: Mapping[str, Any] | None = None, name: str | None = None) -> "Run":
    """Return this process's run; the first call starts it.

    `parameters` are the script's defaults: a task's own parameters win over them. `name` names the folder
    of a local run. Called again without arguments it returns the same run; RuntimeError when another
    process of the run already reports.
    """
    global _current
    if _current is not None and not _current.finished:
        if parameters is None and name is None:
            return _current
        if _current.in_worker:
            _current.parameters = {**dict(parameters or {}), **_current.parameters}
            return _current
        _current.finish()
    directory = os.environ.get(layout.RUN_DIR_VARIABLE)
    _current = _worker_run(Path(directory), parameters) if directory else _local_run(parameters, name)
    return _current


class Run:
    """Report a training: `log()` what it reaches, ask `should_stop()`, leave files in `output`.

    `parameters` is a plain dict; `output` a folder whose files are kept with the result; `directory` the
    run's own folder. Safe to call from several threads of the process that called `init()`; not from forked
    ones (RuntimeError).
    """

    def __init__(self, directory: Path, parameters: dict[str, Any], *, in_worker: bool, name: str) -> None:
        self.directory = directory
        self.parameters = parameters
        self.name = name
        self.in_worker = in_worker
        self.finished = False
        self.output = directory / layout.BUNDLE
        self.output.mkdir(parents=True, exist_ok=True)
        self._writer_lock = _claim(directory / layout.SPOOL)
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
            total_steps = checked_step(total_steps, "total_steps") or None  # of 0 there is no percentage
        values = checked_metrics(metrics)
        with self._log_lock:
            if self.finished or self._foreign:
                self._refuse()
            payload = encode_record((self._seq + 1, time.time(), step, total_steps, values))
            if len(payload) > MAX_PAYLOAD:
                raise ValueError(
                    f"one log() call holds {len(payload)} bytes of metrics; the limit is {MAX_PAYLOAD}"
                )
            self._seq += 1
            self._queue.append(payload)
            if self._progress is not None:
                self._progress.update(step, values, total_steps)
            full = len(self._queue) >= QUEUE_LIMIT
        if full:
            self._flush()

    def should_stop(self) -> bool:
        """Return True once the task was asked to stop: save what is needed and leave the training loop."""
        if self._stop_requested:
            self._stop_seen = True
        return self._stop_requested

    def finish(self) -> None:
        """Write out what was logged; called by itself when the process ends. Later `log()` calls are
        refused.
        """
        if self._foreign:
            return
        with self._log_lock:
            if self.finished:
                return
            self.finished = True
        self._wake.set()
        self._thread.join()
        self._flush()
        self._note_stop()
        self._writer.close()
        _runs.discard(self)
        os.close(self._writer_lock)
        if self._progress is not None:
            from trainwright.training.bundle import write_history

            write_history(self.directory)
            self._progress.close(self.directory)

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.finish()

    def _refuse(self) -> None:
        if self._foreign:
            raise RuntimeError(
                "run.log() was called in a forked process (a data loader's worker?); call it where init() was"
            )
        raise RuntimeError("run.log() was called after run.finish()")

    def _flush_forever(self) -> None:
        while not self._wake.wait(FLUSH_SECONDS):
            try:
                self._flush()
                self._read_control()
                self._note_stop()
                if self._progress is not None:
                    self._progress.show()
            except OSError:
                # A full disk: what is queued stays queued; once the queue is full the
                # training thread gets the error.
                self._wake.wait(1.0)

    def _flush(self) -> None:
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

    def _note_stop(self) -> None:
        """Leave a note for the agent that the script has seen the request, so that it knows why the run
        ends.
        """
        if self._stop_seen and not self._stop_noted:
            layout.write_json(self.directory / layout.STOPPING, {"seen": True})
            self._stop_noted = True


def _worker_run(directory: Path, parameters: Mapping[str, Any] | None) -> Run:
    spec = layout.read_json(directory / layout.SPEC) or {}
    merged = {**dict(parameters or {}), **spec.get("parameters", {})}
    run = Run(directory, merged, in_worker=True, name=str(spec.get("name") or directory.name))
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, _leave)
    return run


def _leave(number: int, frame: FrameType | None) -> None:
    """End the process as an exit, so that `finally` blocks and the last flush happen."""
    raise SystemExit(128 + number)


def _local_run(parameters: Mapping[str, Any] | None, name: str | None) -> Run:
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    label = name or (Path(main).stem if main else "run")
    safe = re.sub(r"[^\w.-]+", "-", label).strip("-.") or "run"
    base = Path("trainwright-runs").absolute()
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        directory = base / (f"{safe}-{stamp}" if attempt == 0 else f"{safe}-{stamp}-{attempt}")
        try:
            directory.mkdir(parents=True)
        except FileExistsError:
            continue
        values = dict(parameters or {})
        layout.write_json(directory / layout.SPEC, {"name": label, "parameters": _plain(values)})
        return Run(directory, values, in_worker=False, name=label)
    raise RuntimeError(f"cannot find a free folder under {base}")


def _plain(value: Any) -> Any:
    """Return `value` as JSON can hold it; what JSON cannot hold becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _claim(spool: Path) -> int:
    """Lock the spool for this process for as long as it lives; RuntimeError when another one reports
    already.
    """
    spool.mkdir(parents=True, exist_ok=True)
    fd = os.open(spool / "writer.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        raise RuntimeError(
            "another process of this run reports already; call trainwright.init() in rank 0 only"
        ) from None
    return fd


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
