"""What follows from a task's end and an attempt's end: one model version, then its report. And from checkpoints:
an index of them, and the end of those that the task's document does not name any more.

Both topics have to have spoken, in either order. Registering is an effect because it reads the bundle's manifest,
which lies outside of the store; it is saved in one transaction with the event that says it.
Not here: what may be deleted (sweeping.py).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from services.result import store
from services.result.domain import as_said, identity_of, leaves_version, new_version
from trainwright.contracts.attempt import AttemptDocument, AttemptEvent, BundleFile, BundleManifest
from trainwright.contracts.base import Event
from trainwright.contracts.result import ModelVersionRegistered, ReportGenerated
from trainwright.contracts.task import TaskDocument, TaskEvent, TaskStatus
from trainwright.runtime.clock import Clock
from trainwright.runtime.effects import Outcome
from trainwright.runtime.outbox import Effect, Emitted
from trainwright.runtime.telemetry.tracing import TRACE
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore, Transaction
from trainwright.storage.meeting import meet

logger = logging.getLogger(__name__)

REGISTER = "register"
SWEEP = "sweep"


async def on_task(event: TaskEvent, *, tx: Transaction, clock: Clock) -> list[Emitted]:
    """Keep the copy and what it names; register what its last attempt left, if that is known already."""
    task = event.task
    await meet(tx, task.task_id)  # and what its attempt says, which looks for it
    before = await store.named_manifests(tx, task.task_id)
    await store.save_task(tx, task)
    await store.note_checkpoints(tx, task.task_id, task.checkpoints, named=True)
    is_completed = task.status is TaskStatus.COMPLETED
    attempt = await store.find_attempt(tx, task.task_id, task.attempt) if is_completed else None
    return [*_registration(task, attempt), *_sweep(before, task)]


async def on_attempt(event: AttemptEvent, *, tx: Transaction, clock: Clock) -> list[Emitted]:
    """Keep what it says and saved; register what it left, if the task is known to be completed by it."""
    attempt = event.attempt
    await meet(tx, attempt.task_id)
    await store.save_attempt(tx, attempt)
    await store.note_checkpoints(tx, attempt.task_id, attempt.checkpoints)
    task = await store.find_task(tx, attempt.task_id) if attempt.bundle is not None else None
    return _registration(task, attempt)


def _sweep(before: Sequence[str], task: TaskDocument) -> list[Emitted]:
    if {one.manifest for one in task.checkpoints}.issuperset(before):
        return []
    return [Effect(SWEEP, f"sweep/{task.task_id}/{task.version}", {"task_id": task.task_id})]


def _registration(task: TaskDocument | None, attempt: AttemptDocument | None) -> list[Emitted]:
    if not leaves_version(task, attempt):
        return []
    assert attempt is not None
    arguments = {"task_id": attempt.task_id, "attempt": attempt.attempt}
    return [Effect(REGISTER, f"register/{attempt.task_id}/{attempt.attempt}", arguments)]


class Registrar:
    """Turns an ended attempt into a model version; a repeat finds it and changes nothing."""

    def __init__(self, documents: DocumentStore, blobs: BlobStore) -> None:
        self._documents = documents
        self._blobs = blobs

    async def __call__(self, arguments: dict[str, Any]) -> Outcome | None:
        """Read what the attempt left; return what registers it."""
        task_id = str(arguments["task_id"])
        task = await store.find_task(self._documents, task_id)
        attempt = await store.find_attempt(self._documents, task_id, int(arguments["attempt"]))
        if not leaves_version(task, attempt) or await store.version_of_task(self._documents, task_id):
            return None
        assert task is not None
        assert attempt is not None
        assert attempt.bundle is not None
        manifest = BundleManifest.model_validate_json(await self._blobs.read_bytes(attempt.bundle))
        return Registration(task, attempt, manifest)


@dataclass(frozen=True, slots=True)
class Registration:
    """A model version that is about to be saved."""

    task: TaskDocument
    attempt: AttemptDocument
    manifest: BundleManifest

    async def __call__(self, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
        """Count the version, save it, ask for its report, say it: all or nothing."""
        if await store.version_of_task(tx, self.task.task_id) is not None:
            return []
        number = await store.next_number(tx, identity_of(self.task, self.manifest))
        model = new_version(self.task, self.attempt, self.manifest, number=number, now=clock.now())
        await store.save_version(tx, model)
        await store.save_render(tx, store.Render(model_id=model.model_id, traceparent=TRACE.get()))
        logger.info("%s left %s: %s", model.task_id, model.model_id, model.description or model.task_name)
        return [ModelVersionRegistered(model=as_said(model))]


async def report_rendered(
    model_id: str, report: str, loss_curve: BundleFile | None, *, tx: Transaction
) -> list[Event]:
    """Add the report, and the curve as a file of the version; a repeat changes nothing."""
    model = await store.get_version(tx, model_id)
    await tx.delete(store.RENDERS.name, model_id)
    if model.report == report:
        return []
    files = dict(model.files)
    if loss_curve is not None:
        files.setdefault("loss_curve.png", loss_curve)
    changed = model.model_copy(update={"report": report, "files": files, "version": model.version + 1})
    await store.save_version(tx, changed)
    return [ReportGenerated(model=as_said(changed))]
