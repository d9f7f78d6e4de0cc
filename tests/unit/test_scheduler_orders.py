"""Task and scheduler agree in the end, in whatever order they and a worker hear of each other.

Both services' own handlers, over their own stores; the log between them is a queue for each reader, and chance
says whose turn it is. The worker is a few lines: it starts, stops and forgets runs as a real one may.
"""

import asyncio
import tempfile
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.handlers import Handlers
from services.scheduler.leases import Leases
from services.scheduler.passes import Passes
from services.scheduler.reactions import reactions
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import COLLECTIONS as SCHEDULER
from services.scheduler.store import find_entry
from services.task import handlers as task_service
from services.task.reactions import REACTIONS
from services.task.store import COLLECTIONS as TASK
from services.task.store import get_task
from tests.runtime_kit import FastClock
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, AttemptStarted, Outcome
from trainwright.contracts.base import Event
from trainwright.contracts.command import Command, RunAttempt, StopAttempt
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.task import FINAL, StopKind, TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.topics import ATTEMPT, COMMAND, PULSE, QUEUE, TOPIC_OF, WORKER
from trainwright.contracts.topics import TASK as TASK_TOPIC
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerRegistered
from trainwright.runtime.apply import Inbound, Reactions, apply, open_record
from trainwright.runtime.envelope import Cause, Record, Reread, to_headers, wrap
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.outbox import emit
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore

READERS = MappingProxyType(
    {TASK_TOPIC: ["scheduler"], QUEUE: ["task"], ATTEMPT: ["task", "scheduler"], COMMAND: ["worker"]}
    | {WORKER: ["scheduler"], PULSE: ["scheduler", "task"]}
)
ENDS: Mapping[StopKind, Outcome] = MappingProxyType(
    {
        StopKind.PAUSE: Outcome.PAUSED,
        StopKind.CANCEL: Outcome.CANCELLED,
        StopKind.PREEMPT: Outcome.INTERRUPTED,
    }
)
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
Turn = Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Run:
    """A run as its worker knows it."""

    attempt: int
    version: int = 0
    revision: int = 0
    stop: StopKind | None = None


@dataclass
class World:
    """Two services, a worker, a person with wishes, and what is on its way between them."""

    folder: Path
    wishes: deque[str]
    ends: deque[Outcome]
    restarts: int
    clock: FastClock = field(default_factory=FastClock)
    log: dict[tuple[str, str], deque[Record]] = field(default_factory=lambda: defaultdict(deque))
    runs: dict[int, Run] = field(default_factory=dict)
    highest: int = 0
    incarnation: int = 0
    granted: list[str] = field(default_factory=list)
    twice: bool = False

    async def open(self) -> None:
        """Build the services, submit a task, register the worker."""
        self.stores = {
            name: SqliteStore(self.folder / name, c) for name, c in (("task", TASK), ("scheduler", SCHEDULER))
        }
        for store in self.stores.values():
            await store.open()
        leases = Leases(self.clock, SchedulerSettings(), ["voice"])
        pulses = PulseSender("scheduler", Kafka(RuntimeSettings()), self.clock)
        self.passes = Passes(self.stores["scheduler"], leases, SchedulerSettings(), self.clock, pulses)
        of_scheduler = reactions(
            Handlers(leases, SchedulerSettings(), self.passes.note, self.passes.board.has_its_place)
        )
        self.reactions: dict[str, Reactions] = {"task": REACTIONS, "scheduler": of_scheduler}
        create = partial(task_service.create_task, TaskConfig(recipe="script", max_retries=1), run=True)
        self.task_id = (await self._ask(create)).task_id
        await self._register()

    async def close(self) -> None:
        """Close the stores."""
        for store in self.stores.values():
            await store.close()

    def turns(self) -> list[Turn]:
        """Return what may happen next."""
        found: list[Turn] = [partial(self._deliver, *key) for key in sorted(self.log) if self.log[key]]
        found += [self._place]
        if self.wishes:
            found.append(self._wish)
        if self.restarts:
            found.append(self._restart)
        for run in list(self.runs.values()):
            if run.version == 0:
                found.append(partial(self._start, run))
            if run.stop is not None:
                found.append(partial(self._end, run, ENDS[run.stop]))
            if self.ends:
                found.append(partial(self._end_by_itself, run))
        return found

    async def settle(self) -> None:
        """Let everybody hear everything, runs that were asked to stop end, and back-offs pass."""
        for _ in range(12):
            while keys := sorted(key for key in self.log if self.log[key]):
                for key in keys:
                    await self._deliver(*key)
            for run in list(self.runs.values()):
                if run.version == 0:
                    await self._start(run)
                if run.stop is not None:
                    await self._end(run, ENDS[run.stop])
            await self.clock.sleep(30)
            await self._say(
                WorkerHeartbeat(
                    worker_id="worker-1",
                    incarnation=str(self.incarnation),
                    time=self.clock.now(),
                    running=[AttemptRef(task_id=self.task_id, attempt=run.attempt) for run in self.runs.values()],
                )
            )
            await self._place()

    async def verdict(self) -> None:
        """Assert that all of them tell the same story, and that it is the one that the person asked for."""
        task = await get_task(self.stores["task"], self.task_id)
        entry = await find_entry(self.stores["scheduler"], self.task_id)
        assert entry is not None
        placement, story = entry.placement, f"{task.status} {task.phase} {entry.placement.state} {self.runs}"
        assert entry.task.version == task.version, story
        if task.status in FINAL or task.status is TaskStatus.PAUSED:
            assert (placement.state, self.runs) == (PlacementState.RELEASED, {}), story
        else:
            assert (task.status, task.phase, task.stop) == (TaskStatus.RUNNING, TaskPhase.TRAINING, None), story
            assert placement.state is PlacementState.ASSIGNED, story
            assert list(self.runs) == [task.attempt] == [placement.attempt], story
        assert not self.twice, "two runs that nobody had given up"
        last = self.granted[-1] if self.granted else ""
        if "cancel" in self.granted:
            assert task.status in FINAL, story
        elif last == "pause":
            assert task.status is TaskStatus.PAUSED or task.status in FINAL, story
        else:
            assert task.status is not TaskStatus.PAUSED, story

    async def _deliver(self, reader: str, topic: str) -> None:
        record = self.log[reader, topic].popleft()
        if reader == "worker":
            _, event = open_record(record)
            assert isinstance(event, Command)
            await self._obey(event)
            return
        found = next(one for one in READERS if one.name == topic)
        inbound = Inbound(reader, found, self.reactions[reader][found], self.stores[reader], self.clock)
        await apply([record], inbound)
        await self._publish()

    async def _publish(self) -> None:
        for store in self.stores.values():
            rows = await store.outbox_pending("event", 1000)
            for row in rows:
                headers = [(header, text.encode()) for header, text in row.headers]
                self._put(Reread(row.topic, 0, row.seq, row.key.encode(), row.value, headers))
            if rows:
                async with store.transaction() as tx:
                    await tx.mark_sent([row.seq for row in rows], self.clock.now())

    def _put(self, record: Record) -> None:
        topic = next(one for one in READERS if one.name == record.topic)
        for reader in READERS[topic]:
            self.log[reader, topic.name].append(record)

    async def _say(self, event: Event) -> None:
        envelope = wrap(event, id=self.clock.new_id("e"), source="w", time=self.clock.now(), traceparent=None)
        headers = [(name, text.encode()) for name, text in to_headers(envelope)]
        value = event.model_dump_json().encode()
        self._put(Reread(TOPIC_OF[type(event)].name, 0, 0, event.subject.encode(), value, headers))

    async def _ask(self, request: Callable[..., Awaitable[Any]]) -> Any:
        async with self.stores["task"].transaction() as tx:
            task, events = await request(actor="person", tx=tx, clock=self.clock)
            await emit(tx, events, source="task", cause=Cause(self.clock.new_id("cause")), clock=self.clock)
        await self._publish()
        return task

    async def _wish(self) -> None:
        wish = self.wishes.popleft()
        request = {"pause": task_service.pause_task, "resume": task_service.resume_task}.get(wish)
        try:
            await self._ask(partial(request or task_service.cancel_task, self.task_id))
        except IllegalTransition:
            return
        self.granted.append(wish)

    async def _place(self) -> None:
        await self.passes.place()
        await self._publish()

    async def _register(self) -> None:
        self.incarnation += 1
        worker = WorkerDocument(
            worker_id="worker-1",
            incarnation=str(self.incarnation),
            version=self.incarnation,
            hostname="here",
            cpus=1,
            memory=2**40,
            registered_at=self.clock.now(),
        )
        await self._say(WorkerRegistered(worker=worker))

    async def _restart(self) -> None:
        """Forget all runs, and come back as another incarnation."""
        self.restarts -= 1
        self.runs.clear()
        await self._register()

    async def _obey(self, command: Command) -> None:
        run = self.runs.get(command.attempt)
        if isinstance(command, RunAttempt):
            if command.incarnation == str(self.incarnation) and command.attempt > self.highest:
                self.twice |= any(other.stop is None for other in self.runs.values())
                self.highest = command.attempt
                self.runs[command.attempt] = Run(command.attempt)
        elif isinstance(command, StopAttempt) and run is not None and command.revision > run.revision:
            run.stop, run.revision = command.kind, command.revision

    async def _start(self, run: Run) -> None:
        await self._tell(run, AttemptStarted)

    async def _end_by_itself(self, run: Run) -> None:
        await self._end(run, self.ends.popleft())

    async def _end(self, run: Run, outcome: Outcome) -> None:
        del self.runs[run.attempt]
        kind = FailureClass.PREEMPTED if outcome is Outcome.INTERRUPTED else FailureClass.UNKNOWN
        failed = outcome in (Outcome.FAILED, Outcome.INTERRUPTED)
        failure = Failure(failure_class=kind, message="so it was") if failed else None
        await self._tell(run, AttemptEnded, outcome=outcome, failure=failure, ended_at=self.clock.now())

    async def _tell(self, run: Run, kind: type[AttemptStarted] | type[AttemptEnded], **fields: Any) -> None:
        run.version += 1
        document = AttemptDocument(
            task_id=self.task_id,
            attempt=run.attempt,
            version=run.version,
            worker_id="worker-1",
            incarnation=str(self.incarnation),
            started_at=self.clock.now(),
            **fields,
        )
        await self._say(kind(attempt=document))


async def play(order: list[int], wishes: list[str], ends: list[Outcome], restarts: int) -> None:
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        world = World(Path(folder), deque(wishes), deque(ends), restarts)
        await world.open()
        try:
            for number in order:
                turns = world.turns()
                await turns[number % len(turns)]()
            while world.wishes:
                await world._wish()
            await world.settle()
            await world.verdict()
        finally:
            await world.close()


@settings(max_examples=25)
@given(
    order=st.lists(st.integers(0, 11), max_size=40),
    wishes=st.lists(st.sampled_from(["pause", "resume", "pause", "resume", "cancel"]), max_size=5),
    ends=st.lists(st.sampled_from([Outcome.COMPLETED, Outcome.FAILED]), max_size=2),
    restarts=st.integers(0, 2),
)
def test_every_order_converges(order: list[int], wishes: list[str], ends: list[Outcome], restarts: int) -> None:
    asyncio.run(play(order, wishes, ends, restarts))
