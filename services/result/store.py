"""What the result service asks of its store, in its own words."""

from collections.abc import Iterable
from typing import Any

from trainwright.contracts.attempt import AttemptDocument
from trainwright.contracts.base import Contract, TaskId
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.errors import NotFound
from trainwright.contracts.result import ModelPage, ModelVersion, Pagination
from trainwright.contracts.task import TaskDocument
from trainwright.storage.document import Collection, Reader, Scalar, Transaction
from trainwright.storage.meeting import MEETINGS

TASKS = Collection("tasks")
ATTEMPTS = Collection("attempts")
VERSIONS = Collection("versions", indexes=("created_at", "task_id", "recipe", "task_name", "identity"))
NUMBERS = Collection("numbers")
RENDERS = Collection("renders", indexes=("state",))
CHECKPOINTS = Collection("checkpoints", indexes=("task_id", "step"))
COLLECTIONS = (MEETINGS, TASKS, ATTEMPTS, VERSIONS, NUMBERS, RENDERS, CHECKPOINTS)

MOST_ROWS = 1000
"""Checkpoints of a task that the index still lists although their files are gone."""


class Render(Contract):
    """A report that is to be rendered, or could not be."""

    model_id: str
    state: str = "pending"
    tries: int = 0
    error: str = ""
    traceparent: str | None = None
    """The trace of what asked for it."""


class Indexed(Checkpoint):
    """A checkpoint: ``named`` once the task's document has had it, ``gone`` once its files are deleted."""

    task_id: TaskId
    named: bool = False
    gone: bool = False


async def find_task(reader: Reader, task_id: str) -> TaskDocument | None:
    """Return the copy of a task, or None."""
    found = await reader.get(TASKS.name, task_id)
    return None if found is None else TaskDocument.model_validate(found)


async def named_manifests(reader: Reader, task_id: str) -> list[str]:
    """Return the checkpoints that the copy of a task names, by their manifests."""
    found = await reader.get(TASKS.name, task_id) or {}
    return [str(one["manifest"]) for one in found.get("checkpoints", ())]


async def save_task(tx: Transaction, task: TaskDocument) -> None:
    """Keep a task's newest document."""
    await tx.put(TASKS.name, task.task_id, task.model_dump(mode="json"))


async def find_attempt(reader: Reader, task_id: str, attempt: int) -> AttemptDocument | None:
    """Return what an attempt last said of itself, or None."""
    found = await reader.get(ATTEMPTS.name, _attempt_key(task_id, attempt))
    return None if found is None else AttemptDocument.model_validate(found)


async def save_attempt(tx: Transaction, attempt: AttemptDocument) -> None:
    """Keep an attempt's newest document."""
    await tx.put(ATTEMPTS.name, _attempt_key(attempt.task_id, attempt.attempt), attempt.model_dump(mode="json"))


async def attempts_of(reader: Reader, task: TaskDocument) -> list[AttemptDocument]:
    """Return what is known of a task's attempts, oldest first; one that never started has said nothing."""
    found = [await find_attempt(reader, task.task_id, number) for number in range(1, task.attempt + 1)]
    return [attempt for attempt in found if attempt is not None]


async def note_checkpoints(
    tx: Transaction, task_id: str, checkpoints: Iterable[Checkpoint], *, named: bool = False
) -> None:
    """Add checkpoints to the index, or note that the task's document names them; a repeat changes nothing."""
    for one in checkpoints:
        key = f"{task_id}/{one.manifest}"
        known = await tx.get(CHECKPOINTS.name, key)
        if known is not None and (known["named"] or not named):
            continue
        row = Indexed(task_id=task_id, named=named, **one.model_dump())
        await tx.put(CHECKPOINTS.name, key, row.model_dump(mode="json"))


async def note_gone(tx: Transaction, rows: Iterable[Indexed]) -> None:
    """Note that the files of checkpoints are deleted; forget the oldest such rows of which there are too many.

    What was noted of them since they were read stays.
    """
    task_ids = set()
    for row in rows:
        key = f"{row.task_id}/{row.manifest}"
        if (known := await tx.get(CHECKPOINTS.name, key)) is not None:
            await tx.put(CHECKPOINTS.name, key, {**known, "gone": True})
        task_ids.add(row.task_id)
    for task_id in task_ids:
        where: dict[str, Scalar] = {"task_id": task_id, "gone": True}
        surplus = await tx.count(CHECKPOINTS.name, where) - MOST_ROWS
        if surplus > 0:
            for old in (await tx.find(CHECKPOINTS.name, where, sort="step", limit=surplus)).items:
                await tx.delete(CHECKPOINTS.name, f"{task_id}/{old['manifest']}")


async def checkpoints_of(reader: Reader, task_id: str, *, there: bool = False) -> list[Indexed]:
    """Return a task's checkpoints, newest first: all that are listed, or those whose files may be there."""
    where: dict[str, Scalar] = {"task_id": task_id, **({"gone": False} if there else {})}
    page = await reader.find(CHECKPOINTS.name, where, sort="-step", limit=2 * MOST_ROWS)
    return sorted(
        (Indexed.model_validate(item) for item in page.items),
        key=lambda row: (row.step, row.attempt),
        reverse=True,
    )


async def version_of_task(reader: Reader, task_id: str) -> ModelVersion | None:
    """Return the model version that a task left, or None."""
    page = await reader.find(VERSIONS.name, {"task_id": task_id}, limit=1)
    return ModelVersion.model_validate(page.items[0]) if page.items else None


async def find_version(reader: Reader, model_id: str) -> ModelVersion | None:
    """Return a model version, or None."""
    found = await reader.get(VERSIONS.name, model_id)
    return None if found is None else ModelVersion.model_validate(found)


async def get_version(reader: Reader, model_id: str) -> ModelVersion:
    """Return a model version.

    Raises:
        NotFound: There is none of this name.
    """
    found = await find_version(reader, model_id)
    if found is None:
        raise NotFound(f"there is no model version {model_id[:200]!r}; ids look like store/S001_all/tcn/v1")
    return found


async def save_version(tx: Transaction, model: ModelVersion) -> None:
    """Write a model version's next document."""
    await tx.put(VERSIONS.name, model.model_id, model.model_dump(mode="json"), expect=model.version - 1)


async def next_number(tx: Transaction, identity: str) -> int:
    """Count one version up for an identity."""
    counted = await tx.get(NUMBERS.name, identity) or {"version": 0}
    number = int(counted["version"]) + 1
    await tx.put(NUMBERS.name, identity, {"version": number}, expect=number - 1)
    return number


async def page_of_versions(reader: Reader, where: dict[str, Any], page: int, page_size: int) -> ModelPage:
    """Return a page of model versions, newest first."""
    total = await reader.count(VERSIONS.name, where)
    before, up_to = (page - 1) * page_size, min(page * page_size, total)
    items = []
    if before < total:
        items = (await reader.find(VERSIONS.name, where, sort="-created_at", limit=up_to)).items[before:]
    place = Pagination(total=total, page=page, page_size=page_size, total_pages=-(-total // page_size))
    return ModelPage(models=[ModelVersion.model_validate(item) for item in items], pagination=place)


async def save_render(tx: Transaction, render: Render) -> None:
    """Keep how a rendering stands."""
    await tx.put(RENDERS.name, render.model_id, render.model_dump(mode="json"))


async def find_render(reader: Reader, model_id: str) -> Render | None:
    """Return how a rendering stands; None once it is done."""
    found = await reader.get(RENDERS.name, model_id)
    return None if found is None else Render.model_validate(found)


async def next_render(reader: Reader) -> Render | None:
    """Return a report that is to be rendered, or None."""
    page = await reader.find(RENDERS.name, {"state": "pending"}, limit=1)
    return Render.model_validate(page.items[0]) if page.items else None


def _attempt_key(task_id: str, attempt: int) -> str:
    return f"{task_id}/{attempt:06d}"
