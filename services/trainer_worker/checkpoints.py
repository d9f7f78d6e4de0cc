"""Store a run's checkpoints as it saves them, and fetch the one that a run goes on from.

The run writes whole folders (`manifest.json` last, then renamed) and removes old ones itself, also while they
are read here. In the store the manifest comes last too, and what was stored must hash to what it says: only such
a checkpoint is told to anybody.
Not here: how checkpoints are written and read (trainwright.training), when stored ones are deleted (result).
"""

import asyncio
import contextlib
import hashlib
import logging
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from services.trainer_worker import spawn
from services.trainer_worker.domain import Attempt
from trainwright import crash
from trainwright.contracts.checkpoint import Checkpoint, CheckpointManifest, area_of, kept_of
from trainwright.contracts.errors import Damaged, NotFound, StoreUnavailable
from trainwright.runtime.clock import Backoff, Clock
from trainwright.storage.blob import BlobStore
from trainwright.training import layout

logger = logging.getLogger(__name__)

SCAN_SECONDS = 0.5
READ_TRIES = 5
GIVE_UP_TRIES = 8
"""Tries, some 15 s of them, after which what a run left that does not go on is not stored."""
COMPLETED_TRIES = 60
"""The same for a run that has completed, some five minutes: its result is kept beside its checkpoints."""
FETCH_TRIES = 5
"""Tries to read a checkpoint that is there but cannot be read, before an older one that can be is taken."""

FORMAT = 1
RESUME_PART = "resume.part"


@dataclass(frozen=True, slots=True)
class Saved:
    """A whole checkpoint in the run's folder; ``stamp`` tells it from a later one of the same name."""

    folder: Path
    stamp: tuple[str, int, int]
    raw: bytes
    manifest: CheckpointManifest
    checkpoint: Checkpoint


class Uploads:
    """Stores the checkpoints of one attempt, the newest first, one at a time."""

    def __init__(
        self,
        directory: Path,
        blobs: BlobStore,
        clock: Clock,
        *,
        attempt: Callable[[], Attempt],
        holds_back: Callable[[int], bool],
        keep: Callable[[Checkpoint], Awaitable[None]],
    ) -> None:
        self._directory = directory
        self._blobs = blobs
        self._clock = clock
        self._attempt = attempt
        self._holds_back = holds_back
        self._keep = keep
        self._done: set[tuple[str, int, int]] = set()
        self._tries: dict[tuple[str, int, int], int] = {}
        self._finishing = asyncio.Event()
        self._waits = False
        self._unsaid: list[str] = []

    async def run(self) -> None:
        """Store each checkpoint that the run saves, until `finish`."""
        backoff = Backoff(self._clock)
        while not self._finishing.is_set():
            try:
                busy = await self._store_next()
                backoff.reset()
                if not busy:
                    await self._pause()
            except StoreUnavailable as error:
                self._note_waiting(
                    f"checkpoints cannot be stored now ({error.detail}); they wait in the run's folder"
                )
                await backoff.wait()
            except Exception:
                logger.exception("%s: storing a checkpoint failed; it is tried again", self._directory.name)
                await backoff.wait()

    def stop(self) -> None:
        """Let `run` end after what it does now."""
        self._finishing.set()

    async def finish(self, patience: Callable[[], int | None]) -> None:
        """Store what is left of a run that has ended, in as many tries as `patience` says now (None: no end)."""
        backoff, tries = Backoff(self._clock), 0
        while True:
            try:
                if not await self._store_next():
                    return
                backoff.reset()
                tries = 0
            except StoreUnavailable as error:
                tries += 1
                most = patience()
                if most is not None and tries >= most:
                    self._note(f"checkpoints are given up: they cannot be stored ({error.detail})")
                    return
                self._note_waiting(
                    f"checkpoints cannot be stored now ({error.detail}); the run's end waits for that"
                )
                await backoff.wait()

    async def _pause(self) -> None:
        try:
            async with asyncio.timeout(SCAN_SECONDS):
                await self._finishing.wait()
        except TimeoutError:
            return

    async def _store_next(self) -> bool:
        """Store the newest checkpoint that is not stored yet; return whether there may be another one."""
        self._say()
        waiting = [] if self._attempt().is_fenced else self._waiting()
        if not waiting:
            return False
        saved = waiting[0]
        try:
            await self._store(saved)
        except Damaged as error:
            self._give_up(saved, error.detail)
        except OSError as error:  # the run sweeps its folder meanwhile; what stays is tried again
            tries = self._tries[saved.stamp] = self._tries.get(saved.stamp, 0) + 1
            if tries >= READ_TRIES:
                self._give_up(saved, f"{error.filename}: {error.strerror}")
            await self._clock.sleep(SCAN_SECONDS / 5)
        return True

    async def _store(self, saved: Saved) -> None:
        area = self._blobs.area(area_of(self._attempt().task_id))
        for name, expected in saved.manifest.files.items():
            blob = await area.write_file(saved.folder / name)
            if (blob.sha256, blob.size) != (expected.sha256, expected.size):
                raise Damaged(
                    f"{name} has {blob.size} bytes with sha256 {blob.sha256}, which is not what was written"
                )
            if self._attempt().is_fenced:
                return
        await area.write_bytes(saved.raw)
        crash.point("agent.checkpoint_stored")
        await self._keep(saved.checkpoint)
        self._done.add(saved.stamp)
        self._waits = False

    def _waiting(self) -> list[Saved]:
        """Return what is worth storing, the newest first: what would not be kept is not stored."""
        known = self._attempt().checkpoints
        found = []
        for folder in _folders(self._directory / layout.CHECKPOINTS):
            try:
                saved = self._look_at(folder)
            except (Damaged, OSError):
                continue
            if saved is None:
                continue
            is_known = any(one.manifest == saved.checkpoint.manifest for one in known)
            if is_known or all(one is not saved.checkpoint for one in kept_of([*known, saved.checkpoint])):
                self._done.add(saved.stamp)
            elif not self._holds_back(saved.checkpoint.step):
                found.append(saved)
        return sorted(found, key=lambda saved: saved.manifest.step, reverse=True)

    def _look_at(self, folder: Path) -> Saved | None:
        path = folder / layout.MANIFEST
        status = path.stat()
        stamp = (folder.name, status.st_ino, status.st_mtime_ns)
        if stamp in self._done:
            return None
        raw = path.read_bytes()
        try:
            manifest = parse(raw)
        except Damaged as error:
            self._done.add(stamp)
            self._note(f"checkpoint {folder.name} is damaged and not stored: {error.detail}")
            raise
        checkpoint = Checkpoint(
            step=manifest.step,
            attempt=self._attempt().attempt,
            manifest=hashlib.sha256(raw).hexdigest(),
            kind=manifest.kind,
            size=sum(file.size for file in manifest.files.values()),
            score=manifest.score,
            greater_is_better=manifest.greater_is_better,
            saved_at=manifest.saved_at,
        )
        return Saved(folder, stamp, raw, manifest, checkpoint)

    def _give_up(self, saved: Saved, why: str) -> None:
        self._done.add(saved.stamp)
        if saved.folder.exists():
            self._note(f"checkpoint {saved.folder.name} is damaged and not stored: {why}")

    def _note_waiting(self, text: str) -> None:
        if not self._waits:
            self._note(text)
        self._waits = True

    def _note(self, text: str) -> None:
        logger.warning("%s: %s", self._directory.name, text)
        self._unsaid.append(text)
        self._say()

    def _say(self) -> None:
        """Tell people what was noted; on a full disk it waits for the next round."""
        if self._unsaid:
            with contextlib.suppress(OSError):
                spawn.note(self._directory, "\n".join(self._unsaid))
                self._unsaid.clear()


def parse(raw: bytes) -> CheckpointManifest:
    """Return a checkpoint's manifest.

    Raises:
        Damaged: It is none, of a later layout, or names files outside of its folder.
    """
    try:
        manifest = CheckpointManifest.model_validate_json(raw)
    except ValidationError as error:
        raise Damaged(f"its manifest cannot be read: {error.errors()[0]['msg']}") from None
    if manifest.format != FORMAT:
        raise Damaged(f"it has layout {manifest.format}, and layout {FORMAT} is known here")
    strange = [name for name in manifest.files if Path(name).name != name or name == layout.MANIFEST]
    if strange:
        raise Damaged(f"its manifest names {strange[0]!r}, which is not a file of its own")
    return manifest


async def fetch(attempt: Attempt, directory: Path, blobs: BlobStore, clock: Clock) -> int | None:
    """Bring the newest whole checkpoint that an attempt may go on from into `resume/`; return its step.

    What is not whole is passed over, with a line in the run's log, and so is what cannot be read while an older
    one can; None when nothing is left: from the beginning.

    Raises:
        StoreUnavailable: The blob store does not answer.
        OSError: The checkpoint cannot be written here.
    """
    area = blobs.area(area_of(attempt.task_id))
    passed, unreadable = [], None
    for checkpoint in attempt.resume_from:
        try:
            step = await _fetch_patiently(checkpoint, area, directory, clock)
        except (NotFound, Damaged) as error:
            passed.append(f"the checkpoint of step {checkpoint.step} is passed over: {error.detail}")
        except StoreUnavailable as error:
            passed.append(f"the checkpoint of step {checkpoint.step} cannot be read: {error.detail}")
            unreadable = error
        else:
            if passed:
                passed.append(f"the run goes on from its checkpoint of step {step}, the newest whole one")
                spawn.note(directory, "\n".join(passed))
            return step
    if unreadable is not None:
        raise unreadable  # it may be there again: waiting costs less than beginning anew
    if passed:
        passed.append(f"NO CHECKPOINT OF {len(passed)} IS WHOLE: the run starts again from the beginning")
        spawn.note(directory, "\n".join(passed))
    return None


async def _fetch_patiently(checkpoint: Checkpoint, area: BlobStore, directory: Path, clock: Clock) -> int:
    backoff = Backoff(clock)
    for _ in range(FETCH_TRIES - 1):
        try:
            return await _fetch(checkpoint, area, directory)
        except StoreUnavailable:
            await backoff.wait()
    return await _fetch(checkpoint, area, directory)


async def _fetch(checkpoint: Checkpoint, area: BlobStore, directory: Path) -> int:
    part, final = directory / RESUME_PART, directory / layout.RESUME
    raw = await area.read_bytes(checkpoint.manifest)
    manifest = parse(raw)
    for old in (part, final):
        await asyncio.to_thread(shutil.rmtree, old, ignore_errors=True)
    await asyncio.to_thread(part.mkdir, parents=True)
    for name, file in manifest.files.items():
        await area.read_file(file.sha256, part / name)
    await asyncio.to_thread((part / layout.MANIFEST).write_bytes, raw)
    await asyncio.to_thread(part.rename, final)
    return manifest.step


def remove_local(directory: Path) -> None:
    """Delete a run's own copies of checkpoints: what is worth keeping is stored."""
    for name in (layout.CHECKPOINTS, layout.RESUME, RESUME_PART):
        spawn.remove_folder(directory / name)


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if not path.name.startswith(".") and path.is_dir()]
    except OSError:
        return []
