"""Delete the files of checkpoints that nobody needs any more. The task's owner says which are kept, nobody else.

A worker writes the files of a checkpoint one checkpoint after the other, each manifest last, before anybody hears
of it. So a file that nothing names may be new, and how new cannot be told by time: Kafka may be away for an hour
while the blobs are not. What is deleted is therefore

- at once: what a checkpoint consists of that the task's document named and names no more, unless it was written
  again after that checkpoint was whole;
- after the grace: what is older than the newest manifest that is kept, or anything once the task is over. The
  grace is counted by this process, file by file: no clock but its own is believed.

Nothing of a task is deleted while one of the manifests that it keeps cannot be read.
"""

import logging
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from services.result import store
from services.result.settings import ResultSettings
from trainwright.contracts.checkpoint import CheckpointManifest, area_of
from trainwright.contracts.errors import Damaged, NotFound
from trainwright.contracts.task import FINAL, TaskDocument
from trainwright.runtime.clock import Clock
from trainwright.storage.blob import BlobStore
from trainwright.storage.document import DocumentStore

logger = logging.getLogger(__name__)

AREA = area_of("").rstrip("/")
SETTLED = timedelta(hours=1)
"""Time after a task's end in which a worker that was replaced may still write."""
UNREADABLE = (NotFound, Damaged, ValidationError)

Listing = Mapping[str, float]
"""Hashes of what is stored, and when each was last written."""


class Sweeper:
    """Sweeps one task's area when its document dropped a checkpoint, and all of them now and then."""

    def __init__(self, documents: DocumentStore, blobs: BlobStore, settings: ResultSettings, clock: Clock) -> None:
        self._documents = documents
        self._blobs = blobs
        self._grace = settings.sweep_grace
        self._clock = clock
        self._spare: dict[str, dict[str, tuple[float, float]]] = {}
        """By task and hash: when it was written, and since when (monotonic) it has been seen unneeded."""
        self._clean: set[str] = set()
        """Tasks that are over, and whose area needs no other look."""

    async def __call__(self, arguments: dict[str, Any]) -> None:
        """Sweep the area of the task that an effect names."""
        await self.sweep(str(arguments["task_id"]))

    async def sweep_all(self) -> None:
        """Sweep the area of every task that is known here."""
        async for area in self._blobs.areas(AREA):
            task_id = area.removeprefix(f"{AREA}/")
            if task_id not in self._clean:
                await self.sweep(task_id)

    async def sweep(self, task_id: str) -> None:
        """Delete what a task needs no more; a task that is not known here is left alone.

        Raises:
            StoreUnavailable: The store or the blobs do not answer.
        """
        if await store.find_task(self._documents, task_id) is None:
            return
        area = self._blobs.area(area_of(task_id))
        listing = {one.sha256: one.modified async for one in area.stored()}
        indexed = await store.checkpoints_of(self._documents, task_id, there=True)
        task = await store.find_task(self._documents, task_id)  # the last of the three: what it names is left
        assert task is not None
        try:
            needed = await _needed(task, area)
        except UNREADABLE as error:
            logger.warning("%s: a checkpoint that is kept cannot be read, nothing is deleted: %s", task_id, error)
            return
        dropped = [row for row in indexed if row.named and row.manifest not in needed]
        useless = [*await _consist_of(dropped, area, listing), *self._unclaimed(task, listing, needed)]
        deleted = [
            sha256
            for sha256 in useless
            if sha256 not in needed and await area.delete(sha256, unless_after=listing[sha256])
        ]
        gone = [row for row in indexed if row.manifest not in needed and _is_gone(row, listing, deleted)]
        if gone:
            async with self._documents.transaction() as tx:
                await store.note_gone(tx, gone)
        is_clean = not useless and task_id not in self._spare
        if is_clean and task.status in FINAL and self._clock.now() - task.updated_at > SETTLED:
            self._clean.add(task_id)
        if deleted:
            logger.info("%s: %d files of checkpoints that are not kept are deleted", task_id, len(deleted))

    def _unclaimed(self, task: TaskDocument, listing: Listing, needed: set[str]) -> list[str]:
        """Return what nothing has needed for the whole grace, and nothing can be about to need."""
        is_over = task.status in FINAL
        newest = max((listing[one.manifest] for one in task.checkpoints if one.manifest in listing), default=0.0)
        now, before = self._clock.monotonic(), self._spare.pop(task.task_id, {})
        spare = {
            sha256: before[sha256] if before.get(sha256, (None,))[0] == modified else (modified, now)
            for sha256, modified in listing.items()
            if sha256 not in needed and (is_over or modified < newest)
        }
        if spare:
            self._spare[task.task_id] = spare
        return [sha256 for sha256, (_, since) in spare.items() if now - since >= self._grace]


async def _needed(task: TaskDocument, area: BlobStore) -> set[str]:
    """Return the hashes of all that a task's kept checkpoints consist of."""
    needed: set[str] = set()
    for one in task.checkpoints:
        manifest = CheckpointManifest.model_validate_json(await area.read_bytes(one.manifest))
        needed |= {one.manifest, *(file.sha256 for file in manifest.files.values())}
    return needed


async def _consist_of(dropped: Iterable[store.Indexed], area: BlobStore, listing: Listing) -> list[str]:
    """Return what dropped checkpoints consist of and nobody wrote again later; manifests after their files."""
    found: list[str] = []
    for row in dropped:
        if row.manifest not in listing:
            continue
        try:
            manifest = CheckpointManifest.model_validate_json(await area.read_bytes(row.manifest))
        except UNREADABLE:
            continue  # what it consisted of goes with the grace
        files = (file.sha256 for file in manifest.files.values())
        found += [name for name in files if name in listing and listing[name] <= listing[row.manifest]]
        found.append(row.manifest)
    return found


def _is_gone(row: store.Indexed, listing: Listing, deleted: list[str]) -> bool:
    return row.manifest in deleted or (row.named and row.manifest not in listing)
