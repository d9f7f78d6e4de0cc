"""Model versions: which attempts leave one, what it counts for, what is said of it. Checkpoints as people see.

Pure. Not here: how a report looks; deleting files (sweeping.py).
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from trainwright.contracts.attempt import AttemptDocument, BundleManifest, Outcome
from trainwright.contracts.checkpoint import Checkpoint, CheckpointList, CheckpointView, best_of
from trainwright.contracts.result import ModelVersion
from trainwright.contracts.task import TaskDocument, TaskStatus

MOST_FILES_SAID = 300
"""Files that an event lists; the bundle's manifest has all of them."""

_SEGMENT = re.compile(r"[A-Za-z0-9_][\w.-]{0,119}", re.ASCII)
_VERSION = re.compile(r"v\d+")
_ADDRESS = re.compile(r"(?P<model_id>.+?/v[1-9]\d*)(?:/files(?:/(?P<name>.+))?)?", re.DOTALL)


def leaves_version(task: TaskDocument | None, attempt: AttemptDocument | None) -> bool:
    """Return whether an attempt's bundle becomes a model version.

    It does if the task's owner says that this very attempt completed the task: an attempt that was replaced and
    completes nevertheless is fenced.
    """
    return (
        task is not None
        and attempt is not None
        and task.status is TaskStatus.COMPLETED
        and task.attempt == attempt.attempt
        and attempt.outcome is Outcome.COMPLETED
        and attempt.bundle is not None
    )


def identity_of(task: TaskDocument, manifest: BundleManifest) -> str:
    """Return what versions of this model count for: the recipe's own word, else `{recipe}/{name}`."""
    claimed = summary_of(manifest).get("identity")
    recipe = task.config.recipe
    if recipe != "script" and isinstance(claimed, str) and _is_identity(claimed):
        return claimed
    return f"{slug(recipe)}/{slug(task.name)}"


def slug(name: str) -> str:
    """Return a name as one segment of a path; names that differ stay different."""
    plain = re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.")[:80]
    if plain == name and _SEGMENT.fullmatch(plain) and not _VERSION.fullmatch(plain):
        return plain
    return f"{plain or 'name'}-{hashlib.sha256(name.encode(errors='replace')).hexdigest()[:6]}"


def summary_of(manifest: BundleManifest) -> Mapping[str, Any]:
    """Return what a recipe said of its own run; empty for scripts."""
    found = manifest.metadata.get("result")
    return found if isinstance(found, dict) else {}


def new_version(
    task: TaskDocument,
    attempt: AttemptDocument,
    manifest: BundleManifest,
    *,
    number: int,
    now: datetime,
) -> ModelVersion:
    """Return a model version, not yet reported on.

    Its metrics are those that the recipe evaluated; for a script the values it logged last.
    """
    identity, summary = identity_of(task, manifest), summary_of(manifest)
    metrics = summary.get("metrics")
    description = summary.get("description")
    assert attempt.bundle is not None
    return ModelVersion(
        model_id=f"{identity}/v{number}",
        identity=identity,
        number=number,
        task_id=task.task_id,
        attempt=attempt.attempt,
        task_name=task.name,
        recipe=task.config.recipe,
        description=description[:500] if isinstance(description, str) else "",
        bundle=attempt.bundle,
        files=manifest.files,
        metrics=metrics if isinstance(metrics, dict) else dict(attempt.latest_metrics),
        created_at=now,
    )


def as_said(model: ModelVersion) -> ModelVersion:
    """Return a model version as an event carries it: with a bounded list of files."""
    if len(model.files) <= MOST_FILES_SAID:
        return model
    return model.model_copy(update={"files": dict(sorted(model.files.items())[:MOST_FILES_SAID])})


def checkpoint_list(task: TaskDocument, indexed: Iterable[Checkpoint]) -> CheckpointList:
    """Return a task's checkpoints as people see them: its document says which are kept, and so which is best."""
    kept = {one.manifest for one in task.checkpoints}
    best = best_of(task.checkpoints)
    rows = [
        CheckpointView(
            **one.model_dump(include=set(Checkpoint.model_fields)),
            best=best is not None and one.manifest == best.manifest,
            kept=one.manifest in kept,
        )
        for one in indexed
    ]
    return CheckpointList(task_id=task.task_id, checkpoints=rows)


def parse_address(path: str) -> tuple[str, str | None, bool]:
    """Return (model id, file, whether files are asked for) of what stands behind `/models/`.

    A model id is a path that ends in its version, so `script/files/v3` is a model and
    `script/files/v3/files/a/b.csv` a file of it.
    """
    match = _ADDRESS.fullmatch(path)
    if match is None:
        return path, None, False
    model_id = match["model_id"]
    return model_id, match["name"], len(path) > len(model_id)


def _is_identity(text: str) -> bool:
    segments = text.split("/")
    fits = all(_SEGMENT.fullmatch(part) and not _VERSION.fullmatch(part) for part in segments)
    return fits and 2 <= len(segments) <= 8 and len(text) <= 300
