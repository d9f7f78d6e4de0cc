"""Saving and resuming a run: what `run.checkpoint()`, `run.resume()` and `run.steps()` do.

The thread that trains copies the state to host memory and goes on; a thread of its own writes the copy. There
is one copy: a save that comes while the one before is still being written waits for it, so a run never holds more
than its state once more.
Not here: the files (checkpoints.py), the trees (state.py).
"""

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainwright.contracts.checkpoint import CheckpointKind, CheckpointManifest
from trainwright.training import checkpoints, layout, rng
from trainwright.training.bundle import History
from trainwright.training.parts import check_fillable, fill
from trainwright.training.rates import change_rates, rates_of, scaled
from trainwright.training.snapshot import PartCopy, Snapshots

if TYPE_CHECKING:
    from trainwright.training.context import Run

DUE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Resumed:
    """Say where a run goes on: after `step`, with the parts' states by name, each read when it is asked for."""

    step: int
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Job:
    manifest: CheckpointManifest
    parts: list[PartCopy]
    last_seq: int


def _rates_in(parts: Mapping[str, Any]) -> dict[str, list[float]]:
    return {name: rates_of([part])[0] for name, part in parts.items() if _has_rates(part)}


def _has_rates(part: Any) -> bool:
    groups = getattr(part, "param_groups", None)
    return isinstance(groups, list) and all(isinstance(group, dict) and "lr" in group for group in groups)


class Saver:
    """Keep the checkpoints of one run."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        spec = layout.read_json(run.directory / layout.SPEC) or {}
        self._attempt = int(spec.get("attempt") or 0)
        self._root = run.directory / layout.CHECKPOINTS
        self._snapshots = Snapshots()
        self._saving = threading.Lock()
        self._writer = _Writer(run, self._root)
        checkpoints.clean(self._root)
        resume = spec.get("resume")
        self.resumed: Resumed | None = None
        self._stored: checkpoints.Stored | None = None
        if resume is not None:
            self._stored = checkpoints.Stored(run.directory / str(resume["folder"]))
            self.resumed = Resumed(self._stored.manifest.step, self._stored)
        self._rates: dict[str, list[float]] = {}
        self._last_step = self.resumed.step if self.resumed else 0
        self._last_time = time.monotonic()

    def resume(self, parts: Mapping[str, Any]) -> int:
        """Load the parts in place, then set the generators; 0 when there is nothing to go on from."""
        for name, part in parts.items():
            check_fillable(name, part)
        self._rates |= _rates_in(parts)  # as they were made, before a state brings old ones back
        if self._stored is None:
            return 0
        missing = [name for name in parts if name not in self._stored]
        if missing:
            raise checkpoints.MissingPartError(
                f"the checkpoint of step {self._stored.manifest.step} has no {', '.join(missing)}; "
                f"it has {', '.join(sorted(self._stored)) or 'no parts'}"
            )
        differs = rng.restore_environment(self._stored.manifest.environment)
        if differs:
            self._run.warn(
                f"the bits of this run may differ from those of an uninterrupted one: {'; '.join(differs)}"
            )
        for name, part in parts.items():
            fill(name, part, self._stored[name])
        self._change_rates(parts, self._stored)
        rng.restore_random(self._stored.random())
        self._last_time = time.monotonic()
        return self._stored.manifest.step

    def save(
        self,
        step: int,
        parts: Mapping[str, Any],
        kind: str,
        *,
        score: float | None,
        greater_is_better: bool,
        wait: bool,
    ) -> None:
        """Copy the parts and have them written; wait for that where `wait` says so."""
        for name in parts:
            if not name.isidentifier():
                raise ValueError(f"a part's name must be a word such as model, got {name!r}")
        with self._saving:
            self._writer.wait()
            self._rates = {**_rates_in(parts), **self._rates}
            taken = {**parts, checkpoints.RATES: self._rates, checkpoints.RANDOM: rng.random_state()}
            try:
                copies = self._snapshots.take(taken)
            except MemoryError as error:
                self._snapshots.clear()
                self._run.warn(f"the checkpoint of step {step} was not saved: {error or 'no memory for the copy'}")
                return
            manifest = CheckpointManifest(
                step=step,
                attempt=self._attempt,
                kind=CheckpointKind(kind),
                score=score,
                greater_is_better=greater_is_better,
                saved_at=datetime.now(UTC),
                files={},
                environment=rng.environment(),
            )
            self._writer.submit(_Job(manifest, copies, self._run.last_seq))
            self._last_step, self._last_time = step, time.monotonic()
            if wait:
                self._writer.wait()

    def _change_rates(self, parts: Mapping[str, Any], stored: checkpoints.Stored) -> None:
        """Let a learning rate that was repaired hold: the optimiser's saved state has brought the old one back."""
        if checkpoints.RATES not in stored:
            return
        saved = stored[checkpoints.RATES]
        names = [name for name in self._rates if name in parts and name in saved]
        change_rates(
            [parts[name] for name in names],
            list(parts.values()),
            [saved[name] for name in names],
            [self._rates[name] for name in names],
        )

    def change_rate(self, parts: Mapping[str, Any], old: float, new: float) -> None:
        """Let another learning rate hold in every optimiser among the parts, as if they were made with it."""
        names = [name for name, part in parts.items() if _has_rates(part)]
        made = {**_rates_in({name: parts[name] for name in names}), **self._rates}
        asked = {name: [scaled(rate, old, new) for rate in made[name]] for name in names}
        change_rates(
            [parts[name] for name in names],
            list(parts.values()),
            [made[name] for name in names],
            [asked[name] for name in names],
        )
        self._rates |= asked

    def due(self, step: int | None, every_steps: int | None, every_seconds: float | None) -> bool:
        """Return whether a multiple of `every_steps` was reached since the last, or `every_seconds` passed."""
        if every_steps is not None:
            if every_steps < 1:
                raise ValueError(f"every_steps must be at least 1, got {every_steps}")
            if step is None:
                raise TypeError("checkpoint_due(every_steps=…) needs step=…, the step that was just made")
            if step // every_steps > self._last_step // every_steps:
                return True
            if every_seconds is None:
                return False
        seconds = DUE_SECONDS if every_seconds is None else every_seconds
        # By the clock nothing is due while the disk is busy: the loop never waits for it.
        return time.monotonic() - self._last_time >= seconds and not self._writer.busy

    def wait(self) -> None:
        """Return when nothing is left to be written."""
        self._writer.wait()

    def close(self) -> None:
        """Finish what is being written."""
        self._writer.wait()
        self._writer.close()


class _Writer:
    """A thread that writes one checkpoint at a time."""

    def __init__(self, run: "Run", root: Path) -> None:
        self._run = run
        self._root = root
        self._changed = threading.Condition()
        self._job: _Job | None = None
        self._thread: threading.Thread | None = None
        self._history: History | None = None
        self._closed = False

    @property
    def busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._job is not None

    def submit(self, job: _Job) -> None:
        """Hand over a job; call it only when none is left."""
        with self._changed:
            self._job = job
            if self._thread is None:
                self._thread = threading.Thread(target=self._write_forever, name="trainwright-save", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def wait(self) -> None:
        """Return when nothing is left to be written."""
        with self._changed:
            while self._job is not None:
                self._changed.wait()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def _write_forever(self) -> None:
        while True:
            with self._changed:
                while self._job is None and not self._closed:
                    self._changed.wait()
                job = self._job
            if job is None:
                break
            try:
                self._write(job)
            except Exception as error:
                self._say(job.manifest, error)
            with self._changed:
                self._job = None
                self._changed.notify_all()
        if self._history is not None:
            self._history.close()

    def _write(self, job: _Job) -> None:
        self._run.flush()
        if self._history is None:
            self._history = History(self._run.directory)
        self._history.read(job.last_seq)
        checkpoints.write(self._root, job.manifest, job.parts, self._history.document())
        with suppress(OSError):  # another sweep follows the next one
            checkpoints.sweep(self._root)

    def _say(self, manifest: CheckpointManifest, error: Exception) -> None:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
        )
        if manifest.kind is CheckpointKind.PERIODIC:
            self._run.warn(
                f"the checkpoint of step {manifest.step} was not saved ({reason}); the training goes on"
            )
        else:
            self._run.warn(
                f"THE {manifest.kind.upper()} CHECKPOINT OF STEP {manifest.step} WAS NOT SAVED ({reason}); "
                "the run can go on only from an older one"
            )
