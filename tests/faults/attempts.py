"""One attempt of a run in a folder, as a worker makes it, without the worker; and the checkpoints that it left.

Not here: when it is ended, what is compared (kill_points.py).
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainwright.contracts.checkpoint import CheckpointManifest
from trainwright.training import layout
from trainwright.training.spool import SpoolReader

Record = tuple[int, int | None, str]
"""A point as people see it: step, total, values by name, exactly."""
CHANGING = ("seconds",)
"""Names in a recipe's summary that no two runs have in common."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A checkpoint in the store."""

    folder: Path
    step: int
    attempt: int
    manifest: str


class Attempt:
    """A run's process, its folder, and the step that it goes on from."""

    def __init__(self, folder: Path, number: int, resume: Kept | None) -> None:
        self.folder = folder
        self.number = number
        self.step = resume.step if resume else 0
        self._resume = resume
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def start(self, spec: dict[str, Any], planted: str = "") -> None:
        """Write the spec and start the child: a module, or a recipe with its parameters and data."""
        work = self.folder / layout.WORK
        work.mkdir(parents=True)
        if self._resume is not None:
            shutil.copytree(self._resume.folder, self.folder / layout.RESUME)
        layout.write_json(
            self.folder / layout.SPEC,
            {
                "task_id": "task-kill-points",
                "attempt": self.number,
                "name": "kill-points",
                "recipe": spec.get("recipe", "script"),
                "parameters": spec.get("parameters", {}),
                "data": spec.get("data"),
                "resume": {"step": self.step, "folder": layout.RESUME} if self._resume else None,
                "repairs": [],
            },
        )
        kept_names = {name: value for name, value in os.environ.items() if not name.startswith("TRAINWRIGHT_")}
        with (self.folder / layout.STDOUT).open("wb") as out, (self.folder / layout.STDERR).open("wb") as error:
            self._process = subprocess.Popen(
                [sys.executable, "-u", "-P", "-m", spec.get("module", "trainwright.training.launch")],
                cwd=work,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=error,
                env={
                    **kept_names,
                    layout.RUN_DIR_VARIABLE: str(self.folder),
                    layout.RUN_ID_VARIABLE: f"task-kill-points/{self.number}",
                    "OMP_NUM_THREADS": "1",
                    "KILL_POINTS_PLANTED": planted,
                },
                start_new_session=True,
            )

    def wait(self, seconds: float | None = 120) -> bool:
        """Wait for the end, so long at most; return whether it ended by itself, and well.

        Raises:
            AssertionError: It failed by itself.
        """
        assert self._process is not None
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        if self._killed and code == -signal.SIGKILL:
            return False
        said = (self.folder / layout.STDERR).read_text(errors="replace")[-2000:]
        assert code == 0, f"attempt {self.number} ended with {code}: {said}"
        return True

    def until(self, what: Callable[[], bool]) -> None:
        """Wait until something is so, or the process has ended."""
        assert self._process is not None
        while self._process.poll() is None and not what():
            time.sleep(0.0005)

    def kill(self) -> None:
        """SIGKILL its whole group, if the process still lives."""
        assert self._process is not None
        if self._process.poll() is None:
            self._killed = True
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def stopped(self) -> bool:
        """Whether it ended because it was asked to."""
        return (self.folder / layout.STOPPING).exists()

    def logged(self) -> int:
        """Return how many bytes it has logged: how far it is, and cheap to ask."""
        return sum(path.stat().st_size for path in (self.folder / layout.SPOOL).glob("*.seg"))

    def is_writing(self) -> bool:
        """Return whether a checkpoint is half written."""
        return any(
            not (folder / layout.MANIFEST).exists() for folder in _folders(self.folder / layout.CHECKPOINTS)
        )

    def is_at_the_end(self) -> bool:
        """Return whether it has begun to leave its model."""
        return any((self.folder / layout.BUNDLE).glob("*"))

    def records(self) -> list[Record]:
        """Return every point in its spool."""
        reader = SpoolReader(self.folder / layout.SPOOL)
        found: list[Record] = []
        while some := reader.read():
            found += [(one.step, one.total_steps, repr(sorted(one.values.items()))) for one in some]
        reader.close()
        return found

    def files(self) -> dict[str, str]:
        """Return the hash of each file that it left with the result."""
        root = self.folder / layout.BUNDLE
        return {str(path.relative_to(root)): _sha256(path) for path in sorted(root.rglob("*")) if path.is_file()}

    def summary(self) -> dict[str, Any]:
        """Return a recipe's own summary without what no two runs have in common."""
        found = layout.read_json(self.folder / layout.RESULT) or {}
        return {name: value for name, value in found.items() if name not in CHANGING}

    def copy_checkpoints(self, store: Path) -> None:
        """Copy its whole checkpoints to the store, as an agent does, which keeps the manifest's hash elsewhere."""
        for folder in _folders(self.folder / layout.CHECKPOINTS):
            if (folder / layout.MANIFEST).exists() and not layout.is_temporary(folder):
                step = CheckpointManifest.model_validate_json((folder / layout.MANIFEST).read_bytes()).step
                manifest = _sha256(folder / layout.MANIFEST)
                shutil.copytree(folder, store / f"{step}.{self.number}.{manifest}")


def kept(store: Path) -> list[Kept]:
    """Return the checkpoints of a store, newest first: by step, then by attempt; damaged ones too."""
    names = [folder.name.split(".") for folder in _folders(store)]
    found = [Kept(store / ".".join(name), int(name[0]), int(name[1]), name[2]) for name in names]
    return sorted(found, key=lambda one: (one.step, one.attempt), reverse=True)


def newest_whole(store: Path) -> Kept | None:
    """Return the newest checkpoint whose files are all there with the hashes that its manifest says."""
    return next((one for one in kept(store) if _is_whole(one)), None)


def damage(folder: Path, chance: random.Random) -> None:
    """Flip a bit of one of the files, or cut it short."""
    path = chance.choice(sorted(folder.iterdir()))
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    if chance.random() < 0.5:
        content[place] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    else:
        path.write_bytes(content[:place])


def _is_whole(one: Kept) -> bool:
    try:
        content = (one.folder / layout.MANIFEST).read_bytes()
        if hashlib.sha256(content).hexdigest() != one.manifest:
            return False
        files = CheckpointManifest.model_validate_json(content).files.items()
        return all(_sha256(one.folder / name) == file.sha256 for name, file in files)
    except OSError:
        return False


def _folders(root: Path) -> list[Path]:
    try:
        return [path for path in root.iterdir() if path.is_dir()]
    except FileNotFoundError:
        return []


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
