"""Checkpoints: states of a run that another process, anywhere, can go on from."""

from collections.abc import Iterable
from enum import StrEnum

from pydantic import Field

from trainwright.contracts.base import (
    AttemptNumber,
    Contract,
    JsonObject,
    Number,
    Sha256,
    TaskId,
    Timestamp,
    example,
)

NEWEST_KEPT = 3
"""Checkpoints that are kept for being the newest; the best and the final ones are kept beside them."""

_CHECKPOINT = {
    "step": 1200,
    "attempt": 1,
    "manifest": "8b1a9953c4611296a827abf8c47804d7e6c49c6b97a5f2d1c2bb0a9a3f6d1e20",
    "kind": "periodic",
    "size": 209715200,
    "score": 0.4121,
    "saved_at": "2025-03-03T08:31:12.400000Z",
}


def area_of(task_id: str) -> str:
    """Return the area of the blob store that holds a task's checkpoints."""
    return f"checkpoints/{task_id}"


class CheckpointKind(StrEnum):
    """Why a checkpoint was saved."""

    PERIODIC = "periodic"
    STOP = "stop"
    FINAL = "final"


class Checkpoint(Contract):
    """A checkpoint that its worker stored and verified."""

    model_config = example(**_CHECKPOINT)

    step: int = Field(ge=0, description="The last step whose effect it holds.")
    attempt: AttemptNumber
    manifest: Sha256
    kind: CheckpointKind = CheckpointKind.PERIODIC
    size: int = Field(0, ge=0, description="Bytes of all its files.")
    score: Number | None = Field(None, description="What the run says it is worth; the best one is kept.")
    greater_is_better: bool = Field(False, description="Whether a greater `score` is the better one.")
    saved_at: Timestamp = Field(description="When the run had written it.")


class CheckpointFile(Contract):
    """One file of a checkpoint."""

    sha256: Sha256
    size: int = Field(ge=0, description="Bytes.")


class CheckpointManifest(Contract):
    """What a checkpoint consists of; written last, so that one which can be read is whole."""

    format: int = Field(1, description="Version of this layout.")
    step: int = Field(ge=0, description="The last step whose effect it holds.")
    attempt: int = Field(0, description="The attempt that saved it; 0 outside of a worker.")
    kind: CheckpointKind = CheckpointKind.PERIODIC
    score: Number | None = None
    greater_is_better: bool = False
    saved_at: Timestamp
    files: dict[str, CheckpointFile] = Field(description="Its files by name.")
    environment: JsonObject = Field(default={}, description="What decides the bits besides the state.")


class CheckpointView(Checkpoint):
    """A row of `GET /tasks/{id}/checkpoints`."""

    model_config = example(**_CHECKPOINT, best=True, kept=True)

    best: bool = Field(description="Whether it has the best score of those that are kept.")
    kept: bool = Field(description="Whether its files are still there.")


class CheckpointList(Contract):
    """`GET /tasks/{id}/checkpoints`."""

    model_config = example(task_id="task-3f9c1a7be042", checkpoints=[{**_CHECKPOINT, "best": True, "kept": True}])
    task_id: TaskId
    checkpoints: list[CheckpointView] = Field(description="Newest first.")


def best_of(checkpoints: Iterable[Checkpoint]) -> Checkpoint | None:
    """Return the one with the best score, the newest of equals; None when none has a score that is a number."""
    scored = [(one, one.score) for one in checkpoints if one.score is not None and one.score == one.score]
    if not scored:
        return None
    return max(scored, key=lambda pair: (pair[1] if pair[0].greater_is_better else -pair[1], pair[0].step))[0]


def kept_of(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return those to keep, newest first: the newest three, the best, and the newest final one.

    A step may be saved twice, with what an evaluation changed in between: the later one counts as newer.
    """
    newest_first = sorted(checkpoints, key=lambda one: (one.step, one.attempt, one.saved_at), reverse=True)
    keep = newest_first[:NEWEST_KEPT]
    best = best_of(newest_first)
    final = next((one for one in newest_first if one.kind is CheckpointKind.FINAL), None)
    return [one for one in newest_first if one in keep or one is best or one is final]
