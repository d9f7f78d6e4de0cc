"""Checkpoints on the disk: written whole or not at all, found, verified, read.

A checkpoint is a folder `checkpoints/step-<step>/`: `state.json` (each part's tree), `<part>.safetensors` (its
arrays and tensors), `history.json` (the metrics so far), `manifest.json` (`CheckpointManifest`: names, sizes and
sha256 of the others). It is written under a temporary name, forced to the disk with the manifest last, and
renamed: a folder that has its own name is whole.
Not here: when to save, what a part is (saving.py), the store that an agent copies checkpoints to.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainwright import crash
from trainwright.contracts.checkpoint import (
    Checkpoint,
    CheckpointFile,
    CheckpointManifest,
    kept_of,
)
from trainwright.training import layout
from trainwright.training.snapshot import PartCopy
from trainwright.training.state import Decoder

STATE = "state.json"
HISTORY = "history.json"
TENSORS = ".safetensors"
RANDOM = "trainwright.rng"
"""The part that holds the generators' states."""
RATES = "trainwright.rates"
"""The part that holds the learning rates that optimisers were made with."""
_CHUNK = 4 * 1024 * 1024


class CheckpointError(RuntimeError):
    """A checkpoint cannot be used; the text says which file and why."""


class MissingPartError(CheckpointError, KeyError):
    """A checkpoint has no such part."""

    def __str__(self) -> str:
        return str(self.args[0])


class Stored(Mapping[str, Any]):
    """A verified checkpoint: its parts' states by name, each read from the disk when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = verify(folder)
        document = layout.read_json(folder / STATE)
        if document is None or not isinstance(document.get("parts"), dict):
            raise CheckpointError(f"{folder / STATE} is not a checkpoint's state")
        self._trees: dict[str, Any] = document["parts"]

    def __getitem__(self, name: str) -> Any:
        if name not in self._trees:
            raise MissingPartError(
                f"the checkpoint of step {self.manifest.step} has no {name!r}; it has {self._names()}"
            )
        try:
            return Decoder(_Tensors(self.folder / f"{name}{TENSORS}").read).decode(self._trees[name])
        except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{name!r} in {self.folder} cannot be read: {error}") from error

    def __contains__(self, name: object) -> bool:
        return name in self._trees

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._trees if name not in (RANDOM, RATES))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def random(self) -> Any:
        """Return the generators' states."""
        return self[RANDOM]

    def _names(self) -> str:
        return ", ".join(sorted(self)) or "none"


class _Tensors:
    """The bytes in a safetensors file, by key; the file is read when the first is asked for."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._entries: dict[str, Any] | None = None
        self._start = 0

    def read(self, key: str) -> bytearray:
        with open(self._path, "rb", buffering=0) as file:
            if self._entries is None:
                self._start = 8 + int.from_bytes(file.read(8), "little")
                if self._start > os.fstat(file.fileno()).st_size:
                    raise ValueError(f"{self._path.name} ends within its header")
                self._entries = json.loads(file.read(self._start - 8))
            first, end = self._entries[key]["data_offsets"]
            data = bytearray(end - first)
            file.seek(self._start + first)
            view = memoryview(data)
            while view and (count := file.readinto(view)):
                view = view[count:]
        if view:
            raise ValueError(f"{self._path.name} ends before {key}")
        return data


def write(
    root: Path, manifest: CheckpointManifest, parts: list[PartCopy], history: Mapping[str, Any]
) -> CheckpointManifest:
    """Write a checkpoint below `root` and return its manifest with all its files; OSError leaves nothing."""
    root.mkdir(parents=True, exist_ok=True)
    name = _free_name(root, manifest.step)
    temporary = root / f".{name}.tmp"
    temporary.mkdir()
    try:
        files = {
            f"{part.name}{TENSORS}": _write(temporary / f"{part.name}{TENSORS}", part.header, part.data)
            for part in parts
            if part.header
        }
        trees = {"parts": {part.name: part.tree for part in parts}}
        files[STATE] = _write(temporary / STATE, json.dumps(trees).encode())
        files[HISTORY] = _write(temporary / HISTORY, json.dumps(history).encode())
        crash.point("checkpoint.files")
        whole = manifest.model_copy(update={"files": files, "saved_at": datetime.now(UTC)})
        _write(temporary / layout.MANIFEST, whole.model_dump_json().encode())
        crash.point("checkpoint.manifest")
        _sync(temporary)
        os.rename(temporary, root / name)
        crash.point("checkpoint.named")
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(root)
    return whole


def _write(path: Path, *pieces: bytes | memoryview) -> CheckpointFile:
    """Write and hash in pieces so large that the interpreter's lock is free nearly all the time."""
    digest, size = hashlib.sha256(), 0
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for piece in pieces:
            view = memoryview(piece)
            for start in range(0, len(view), _CHUNK):
                chunk = view[start : start + _CHUNK]
                digest.update(chunk)
                while chunk:
                    chunk = chunk[os.write(fd, chunk) :]
            size += len(view)
        os.fsync(fd)
    finally:
        os.close(fd)
    return CheckpointFile(sha256=digest.hexdigest(), size=size)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _free_name(root: Path, step: int) -> str:
    name = f"step-{step:010d}"
    number = 2
    while (root / name).exists():
        name, number = f"step-{step:010d}-{number}", number + 1
    return name


def clean(root: Path) -> None:
    """Remove what killed processes left half-written or half-removed."""
    with suppress(OSError):
        for path in root.iterdir():
            if layout.is_temporary(path):
                shutil.rmtree(path, ignore_errors=True)


def sweep(root: Path) -> None:
    """Remove the checkpoints that need not be kept: all but the newest three, the best, the newest final one."""
    found: list[tuple[Path, Checkpoint]] = []
    for folder in whole_folders(root):
        manifest = manifest_of(folder)
        if manifest is not None:
            facts = manifest.model_dump(include={"step", "kind", "score", "greater_is_better", "saved_at"})
            found.append((folder, Checkpoint(attempt=1, manifest="0" * 64, **facts)))
    keep = kept_of(one for _, one in found)
    for folder, one in found:
        if not any(one is kept for kept in keep):
            # Renamed first: a reader never sees half a folder under a name that says it is whole.
            removed = folder.with_name(f".{folder.name}.tmp")
            os.rename(folder, removed)
            shutil.rmtree(removed, ignore_errors=True)


def whole_folders(root: Path) -> list[Path]:
    """Return the folders of whole checkpoints below `root`, the newest first."""
    try:
        names = [entry.name for entry in os.scandir(root) if entry.name.startswith("step-")]
    except OSError:
        return []
    whole = [root / name for name in names if (root / name / layout.MANIFEST).is_file()]
    return sorted(whole, key=lambda folder: [int(part) for part in folder.name.split("-")[1:]], reverse=True)


def manifest_of(folder: Path) -> CheckpointManifest | None:
    """Return a checkpoint's manifest; None when there is none that can be read."""
    try:
        return CheckpointManifest.model_validate_json((folder / layout.MANIFEST).read_bytes())
    except (OSError, ValidationError):
        return None


def verify(folder: Path) -> CheckpointManifest:
    """Return the manifest after every file was read and its hash compared; CheckpointError when one is damaged."""
    manifest = manifest_of(folder)
    if manifest is None:
        raise CheckpointError(f"{folder} has no manifest.json that can be read: the checkpoint is not whole")
    if manifest.format != 1:
        raise CheckpointError(f"{folder} has layout {manifest.format}; this version of trainwright reads 1")
    for name, expected in manifest.files.items():
        if Path(name).name != name:
            raise CheckpointError(f"{folder} names a file outside of itself: {name!r}")
        found = _hash_of(folder / name)
        if found != expected:
            raise CheckpointError(
                f"{folder / name} is damaged: {found.size} bytes with sha256 {found.sha256[:12]}…, "
                f"its manifest says {expected.size} and {expected.sha256[:12]}…"
            )
    return manifest


def _hash_of(path: Path) -> CheckpointFile:
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(_CHUNK)
    try:
        with open(path, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
                size += count
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    return CheckpointFile(sha256=digest.hexdigest(), size=size)
