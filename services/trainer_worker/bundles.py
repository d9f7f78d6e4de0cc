"""Pack what a completed run left, and store it: files first, the manifest that names them last."""

import asyncio
from pathlib import Path
from typing import Any

from services.trainer_worker.domain import Attempt
from trainwright import crash
from trainwright.contracts.attempt import BundleFile, BundleManifest
from trainwright.contracts.base import iso
from trainwright.storage.blob import BlobStore
from trainwright.training.bundle import bundle_files, git_commit, write_history, write_metadata


async def store_bundle(directory: Path, attempt: Attempt, worker_id: str, blobs: BlobStore) -> str:
    """Store a run's bundle; return the manifest's hash. Safe to repeat: the same content has the same name.

    Raises:
        OSError: A file of the run cannot be read or written.
        StoreUnavailable: The blob store does not answer.
    """
    metadata = await asyncio.to_thread(_pack, directory, attempt, worker_id)
    files = {}
    for name, path in (await asyncio.to_thread(bundle_files, directory)).items():
        blob = await blobs.write_file(path)
        files[name] = BundleFile(sha256=blob.sha256, size=blob.size)
    crash.point("agent.bundle_stored")
    manifest = BundleManifest(files=files, metadata=metadata)
    return (await blobs.write_bytes(manifest.model_dump_json().encode())).sha256


def _pack(directory: Path, attempt: Attempt, worker_id: str) -> dict[str, Any]:
    write_history(directory)
    return write_metadata(directory, _facts(attempt, worker_id))


def _commit(attempt: Attempt) -> str | None:
    """Return the commit of a script that is run where it lies; uploaded files are told by their hashes."""
    script = Path(str(attempt.config.parameters.get("path") or ""))
    return git_commit(script.parent) if script.is_absolute() else None


def _facts(attempt: Attempt, worker_id: str) -> dict[str, Any]:
    config = attempt.config.model_dump(mode="json")
    return {
        "task_id": attempt.task_id,
        "attempt": attempt.attempt,
        "name": attempt.name,
        "recipe": attempt.config.recipe,
        "config": config,
        "overrides": attempt.overrides,
        "repairs": [repair.model_dump(mode="json") for repair in attempt.repairs],
        "resume_step": attempt.resume_step,
        "data": attempt.config.data,
        "file_hashes": {file.path: file.sha256 for file in attempt.config.files},
        "git_commit": _commit(attempt),
        "worker_id": worker_id,
        "slots": attempt.slots.model_dump(mode="json"),
        "started_at": iso(attempt.started_at) if attempt.started_at else None,
        "ended_at": iso(attempt.ended_at) if attempt.ended_at else None,
    }
