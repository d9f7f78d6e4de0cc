"""What tests of the runtime share: a clock that never waits, records as Kafka gives them, a counting service."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from trainwright.contracts.base import Event
from trainwright.contracts.queue import Placement, PlacementState, TaskQueued
from trainwright.contracts.task import TaskDocument, TaskPhase, TaskReady, TaskStatus
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.topics import TASK, TOPIC_OF, Topic
from trainwright.runtime.apply import DEAD_LETTERS, Inbound
from trainwright.runtime.clock import Clock
from trainwright.runtime.envelope import Reread, to_headers, wrap
from trainwright.runtime.outbox import Emitted
from trainwright.storage.document import Collection, DocumentStore, Transaction

SEEN = Collection("seen")
COLLECTIONS = (SEEN, DEAD_LETTERS)
MOMENT = datetime(2025, 3, 3, 8, 15, 30, tzinfo=UTC)


class FastClock:
    """A clock whose sleeps take no time and are remembered; identifiers count up, jitter is none."""

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._ids = 0

    def now(self) -> datetime:
        return MOMENT + timedelta(seconds=sum(self.slept))

    def monotonic(self) -> float:
        return 1000.0 + sum(self.slept)

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)

    def new_id(self, prefix: str) -> str:
        self._ids += 1
        return f"{prefix}-{self._ids:012x}"

    def random(self) -> float:
        return 0.5


def task_event(number: int = 1, version: int = 1, **changes: Any) -> TaskReady:
    """Return an event of a task."""
    document = TaskDocument(
        task_id=f"task-{number:012x}",
        version=version,
        name="example",
        config=TaskConfig(recipe="script"),
        status=TaskStatus.PENDING,
        phase=TaskPhase.WAITING_SLOTS,
        created_at=MOMENT,
        updated_at=MOMENT,
    )
    return TaskReady(task=document.model_copy(update=changes))


def record(
    event: Event,
    *,
    offset: int = 0,
    id: str | None = None,
    headers: dict[str, bytes] | None = None,
    traceparent: str | None = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
) -> Reread:
    """Return an event as a record; ``headers`` replace or, when empty, take away."""
    name = id or f"event-{event.subject}-{event.aggregate_version}"
    envelope = wrap(event, id=name, source="tests", time=MOMENT, traceparent=traceparent)
    made = {name: text.encode() for name, text in to_headers(envelope)} | (headers or {})
    kept = [(name, value) for name, value in made.items() if value != b""]
    value = event.model_dump_json().encode()
    return Reread(TOPIC_OF[type(event)].name, 0, offset, event.subject.encode(), value, kept)


@dataclass
class Counting:
    """A service that counts how often it applied what; it can be told to fail."""

    fail_on: dict[str, int] = field(default_factory=dict)
    """Subjects whose event fails, and how many times."""
    calls: list[str] = field(default_factory=list)

    async def on_task_ready(self, event: TaskReady, *, tx: Transaction, clock: Clock) -> Sequence[Emitted]:
        """Count the event in the store, answer with one of its own."""
        subject = event.subject
        self.calls.append(subject)
        seen = await tx.get("seen", subject) or {"id": subject, "times": 0, "versions": []}
        document = {"id": subject, "times": seen["times"] + 1, "versions": [*seen["versions"], event.task.version]}
        await tx.put("seen", subject, document)
        if self.fail_on.get(subject, 0) > 0:
            self.fail_on[subject] -= 1
            raise RuntimeError(f"cannot bear {subject}")
        return [queued(subject, event.task.version, clock)]

    def inbound(self, store: DocumentStore, clock: Clock, topic: Topic = TASK) -> Inbound:
        """Return this service's side of a topic."""
        return Inbound("counting", topic, {TaskReady: self.on_task_ready}, store, clock)


def queued(subject: str, version: int, clock: Clock) -> TaskQueued:
    """Return what the counting service answers."""
    return TaskQueued(
        placement=Placement(task_id=subject, version=version, state=PlacementState.QUEUED, updated_at=clock.now())
    )


async def versions_seen(store: DocumentStore) -> dict[str, list[int]]:
    """Return which versions were applied, by subject."""
    page = await store.find("seen", limit=100_000)
    return {document["id"]: document["versions"] for document in page.items}
