"""What must be true of a home, whatever was done to it: over its stores, its log and its blobs, as they lie there.

It knows nothing of how the services keep their promises, asks none of them, and shares what can be shared with
the simulation's checker. Each broken promise is one line of text. Whatever is still on its way gets some seconds.
Not here: what was done (`campaign.py`, `outages.py`), the protocol's own checker (`protocol.py`).
"""

import asyncio
import hashlib
import json
import re
import sqlite3
import time
from collections import Counter
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from tests.patience import patient
from tests.simulation.checker import numbers_are_given_once, versions_are_one, workers_given
from trainwright.contracts.base import Event
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.task import FINAL, TaskEvent, TaskStatus
from trainwright.contracts.topics import ATTEMPT, QUEUE, RESULT, TASK, WORKER
from trainwright.runtime.apply import open_record
from trainwright.runtime.envelope import Envelope, Poison
from trainwright.runtime.outbox import CAP

LIFECYCLE = (TASK, QUEUE, ATTEMPT, WORKER, RESULT)
SETTLES_SECONDS = 20.0
BLOB = re.compile(r"[0-9a-f]{64}")
Said = list[tuple[Envelope, Event]]
Documents = dict[str, dict[str, Any]]


@dataclass(slots=True)
class Evidence:
    """What lies in a home."""

    home: Path
    accepted: Collection[str] = ()
    """Tasks that somebody was promised."""
    over: bool = False
    """Whether every task should have come to its end."""
    said: Said = field(default_factory=list)

    def documents(self, service: str, collection: str) -> Documents:
        """Return a service's documents; none when there is no such store."""
        return {id: json.loads(text) for id, text in self.rows(service, f'SELECT id, doc FROM "c_{collection}"')}

    def rows(self, service: str, question: str) -> list[tuple[Any, ...]]:
        """Ask a service's store, as it lies there."""
        path = self.home / "services" / f"{service}.db"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as database:
            return database.execute(question).fetchall()


def broken(home: Path, accepted: Collection[str] = (), *, over: bool = False) -> list[str]:
    """Return the promises that do not hold in a home, in words; what is on its way gets time to arrive."""
    evidence = Evidence(home, accepted, over)
    deadline = patient(SETTLES_SECONDS)
    while True:
        kafka = _kafka_of(home)
        evidence.said = _read_log(kafka) if kafka else []
        wrong = [line for check in (AT_REST + SETTLED if kafka else AT_REST) for line in check(evidence)]
        if not (wrong and kafka) or time.monotonic() > deadline:
            return wrong
        time.sleep(0.5)


def _accepted_is_kept(found: Evidence) -> Iterator[str]:
    """I1: what was answered is there, and what was said was saved."""
    tasks = found.documents("task", "tasks")
    for task_id in set(found.accepted) - set(tasks):
        yield f"I1: {task_id} was accepted and is not there"
    for task_id in {event.task.task_id for _, event in found.said if isinstance(event, TaskEvent)} - set(tasks):
        yield f"I1: {task_id} was said and is not there"


def _nothing_is_done_twice(found: Evidence) -> Iterator[str]:
    """I2: an attempt has one worker, a task one completion, an attempt one model version."""
    yield from numbers_are_given_once(workers_given(event for _, event in found.said))
    for task_id, times in _entries_into(found, TaskStatus.COMPLETED).items():
        if times > 1:
            yield f"I2: {task_id} was completed {times} times"
    models = Counter((one["task_id"], one["attempt"]) for one in found.documents("result", "versions").values())
    for (task_id, attempt), times in models.items():
        if times > 1:
            yield f"I2: attempt {attempt} of {task_id} left {times} model versions"


def _entries_into(found: Evidence, status: TaskStatus) -> Counter[str]:
    """Return how often each task has come to a status from another one."""
    lines = sorted(found.documents("task", "history").items())
    times: Counter[str] = Counter()
    before: tuple[str, str] | None = None
    for id, line in lines:
        task_id = id.partition("/")[0]
        if line["status"] == status and before != (task_id, status):
            times[task_id] += 1
        before = (task_id, line["status"])
    return times


def _versions(found: Evidence) -> Iterator[str]:
    """I3: one version of a document says one thing, and no reader is ahead of the owner."""
    yield from versions_are_one(found.said)
    own = found.documents("task", "tasks")
    for task_id, entry in found.documents("scheduler", "entries").items():
        copy = entry["task"]["version"]
        if task_id in own and copy > own[task_id]["version"]:
            yield f"I3: the scheduler has version {copy} of {task_id}; its owner {own[task_id]['version']}"


def _readers_are_up_to_date(found: Evidence) -> Iterator[str]:
    """I3: when all has arrived, the scheduler's copy of each task is the owner's."""
    own = found.documents("task", "tasks")
    for task_id, entry in found.documents("scheduler", "entries").items():
        if task_id in own and entry["task"]["version"] != own[task_id]["version"]:
            yield f"I3: the scheduler has version {entry['task']['version']} of {task_id}; not its owner's newest"


def _everything_has_a_reason(found: Evidence) -> Iterator[str]:
    """I4: every task is final, or stands where it stands with a reason; no slot is held for one that is final."""
    own = found.documents("task", "tasks")
    for task_id, task in own.items():
        if task["status"] in FINAL or task["status"] == TaskStatus.PAUSED:
            continue
        if found.over:
            yield f"I4: {task_id} is {task['status']} ({task['phase']}: {task['reason']})"
        elif not (task["phase"] and (task["reason"] or task["status"] == TaskStatus.RUNNING)):
            yield f"I4: {task_id} is {task['status']} ({task['phase']}) without a reason"
    for task_id, entry in found.documents("scheduler", "entries").items():
        is_held = entry["placement"]["state"] == PlacementState.ASSIGNED
        if is_held and task_id in own and own[task_id]["status"] in FINAL:
            yield f"I4: a slot is held for {task_id}, which is {own[task_id]['status']}"


def _artifacts_are_whole(found: Evidence) -> Iterator[str]:
    """I5: what is published is there, and each content is what its name says."""
    blobs = found.home / "blobs"
    for path in blobs.rglob("*"):
        if BLOB.fullmatch(path.name) and path.parent.name == path.name[:2] and not _hashes(path):
            yield f"I5: {path.relative_to(blobs)} is damaged"
    for model_id, model in found.documents("result", "versions").items():
        wanted = [model["bundle"], model["report"], *(one["sha256"] for one in model["files"].values())]
        for sha256 in filter(None, wanted):
            if not (blobs / sha256[:2] / sha256).exists():
                yield f"I5: {model_id} names {sha256[:12]}…, which is not stored"


def _queues_are_bounded(found: Evidence) -> Iterator[str]:
    """I6: no outbox is over its cap."""
    for path in (found.home / "services").glob("*.db"):
        ((waiting,),) = found.rows(path.stem, "SELECT count(*) FROM outbox WHERE sent_at IS NULL")
        if waiting > CAP:
            yield f"I6: {waiting} rows wait in the outbox of {path.stem}"


def _everything_is_said(found: Evidence) -> Iterator[str]:
    """I6: once all is well, outboxes are empty."""
    for path in (found.home / "services").glob("*.db"):
        ((waiting,),) = found.rows(
            path.stem, "SELECT count(*) FROM outbox WHERE sent_at IS NULL AND kind = 'event'"
        )
        if waiting:
            yield f"I6: {waiting} events wait in the outbox of {path.stem}"


AT_REST = (
    _accepted_is_kept,
    _nothing_is_done_twice,
    _versions,
    _everything_has_a_reason,
    _artifacts_are_whole,
    _queues_are_bounded,
)
SETTLED = (_readers_are_up_to_date, _everything_is_said)
"""What is true of a platform that runs, once everything that is on its way has arrived."""


def _hashes(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == path.name
    except FileNotFoundError:  # swept meanwhile
        return True


def _kafka_of(home: Path) -> str | None:
    """Return where a home's Kafka answers; None when the platform does not run."""
    try:
        state = json.loads((home / "state.json").read_text())
    except (OSError, ValueError):
        return None
    return str(state["kafka"]) if state.get("ready") else None


def _read_log(kafka: str) -> Said:
    """Read what was said on the topics of life cycles; on a thread, whatever loop runs here."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, _read(kafka)).result()


async def _read(kafka: str) -> Said:
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest", enable_auto_commit=False)
    await consumer.start()
    try:
        partitions = [
            TopicPartition(topic.name, number)
            for topic in LIFECYCLE
            for number in consumer.partitions_for_topic(topic.name) or await _partitions(consumer, topic.name)
        ]
        consumer.assign(partitions)
        ends = await consumer.end_offsets(partitions)
        said: Said = []
        while any([await consumer.position(one) < ends[one] for one in partitions]):
            for batch in (await consumer.getmany(timeout_ms=100, max_records=5000)).values():
                said += _opened(batch)
        return said
    finally:
        await consumer.stop()


async def _partitions(consumer: AIOKafkaConsumer, topic: str) -> set[int]:
    await consumer.topics()
    return consumer.partitions_for_topic(topic) or set()


def _opened(batch: list[Any]) -> Said:
    found: Said = []
    for record in batch:
        try:
            envelope, event = open_record(record)
        except Poison:
            continue
        if event is not None:
            found.append((envelope, event))
    return found
