"""What the scheduler does by itself, over its own store: what commands carry, what a worker does not know."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.scheduler.domain.why import why
from services.scheduler.handlers import Handlers
from services.scheduler.leases import Leases
from services.scheduler.passes import Passes
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import COLLECTIONS, find_entry
from tests.runtime_kit import MOMENT, FastClock, task_event
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, Outcome
from trainwright.contracts.base import Event
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.task import Repair, StopKind, TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerRegistered
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore

TASK = task_event().task.task_id
KNOWN = AttemptRef(task_id=TASK, attempt=1)


class Scheduler:
    """A scheduler without a log: events are handed to it, commands are read from its outbox."""

    def __init__(self, store: SqliteStore) -> None:
        self.store, self.clock, settings = store, FastClock(), SchedulerSettings()
        self.leases = Leases(self.clock, settings, ["voice"])
        pulses = PulseSender("scheduler", Kafka(RuntimeSettings()), self.clock)
        self.passes = Passes(store, self.leases, settings, self.clock, pulses)
        board = self.passes.board
        self.handlers = Handlers(self.leases, settings, self.passes.note, board.has_its_place, board.heeds_stop)

    async def hear(self, event: Event) -> Sequence[Any]:
        """Apply an event; return what follows."""
        reactions: dict[str, Any] = {
            "task": self.handlers.on_task_changed,
            "attempt": self.handlers.on_attempt_ended,
            "worker": self.handlers.on_worker_changed,
            "pulse": self.handlers.on_heartbeat,
        }
        async with self.store.transaction() as tx:
            answers: Sequence[Any] = await reactions[event.noun](event, tx=tx, clock=self.clock)
        return answers

    async def meet(self, worker: WorkerDocument) -> None:
        """Hear of a worker, and its first heartbeat."""
        await self.hear(WorkerRegistered(worker=worker))
        await self.live(1, [])

    async def live(self, seconds: int, running: list[AttemptRef] | None, *, probes: bool = True) -> None:
        """Let seconds pass as they do; a worker that beats (whose clock is an hour ahead) says what runs there."""
        for _ in range(seconds):
            await self.clock.sleep(1)
            self.leases.tick()
            seq = self.leases.next_probe()
            if probes:
                self.leases.probe_seen("voice", seq)
            if running is not None:
                await self.beat(running)
            await self.passes.watch()
            await self.passes.sweep()

    async def beat(self, running: list[AttemptRef]) -> Sequence[Any]:
        """Hear a heartbeat; return what follows."""
        time = self.clock.now() + timedelta(hours=1)
        return await self.hear(WorkerHeartbeat(worker_id="w", incarnation="one", time=time, running=running))

    async def is_sent(self) -> None:
        """Let the relay send what waits."""
        rows = await self.store.outbox_pending("event", 100)
        async with self.store.transaction() as tx:
            await tx.mark_sent([row.seq for row in rows], self.clock.now())

    async def commands(self, kind: type[Event]) -> list[Any]:
        """Return the commands that a pass has sent since this was asked last."""
        rows = await self.store.outbox_pending("event", 100)
        await self.is_sent()
        return [
            kind.model_validate_json(row.value)
            for row in rows
            if dict(row.headers)["ce_type"].count(kind.__name__)
        ]

    async def holds_a_place(self) -> bool:
        """Return whether the task holds a place."""
        entry = await find_entry(self.store, TASK)
        return entry is not None and entry.placement.state is PlacementState.ASSIGNED


def a_worker() -> WorkerDocument:
    """Return the worker of these tests."""
    return WorkerDocument(
        worker_id="w",
        incarnation="one",
        version=1,
        hostname="here",
        cpus=4,
        memory=2**34,
        registered_at=MOMENT,
    )


@contextlib.asynccontextmanager
async def a_store(folder: Path) -> AsyncIterator[SqliteStore]:
    """Open the store of a scheduler."""
    store = SqliteStore(folder / "scheduler.db", COLLECTIONS)
    await store.open()
    try:
        yield store
    finally:
        await store.close()


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[Scheduler]:
    async with a_store(tmp_path) as store:
        found = Scheduler(store)
        await found.meet(a_worker())
        yield found


async def test_a_command_carries_what_the_next_attempt_goes_on_from(scheduler: Scheduler) -> None:
    repair = Repair(attempt=1, failure_class=FailureClass.OUT_OF_MEMORY, action="halve the micro-batch", at=MOMENT)
    found: dict[str, Any] = {
        "config": TaskConfig(recipe="script", timeout=600),
        "attempt": 1,
        "overrides": {"micro_batch": 4},
        "repairs": [repair],
        "checkpoints": [Checkpoint(step=step, attempt=1, manifest="0" * 64, saved_at=MOMENT) for step in (9, 6)],
        "ran_seconds": 480.0,
    }
    await scheduler.hear(task_event(version=7, **found))
    await scheduler.passes.place()
    rows = await scheduler.store.outbox_pending("event", 10)
    (row,) = [row for row in rows if "command" in row.topic]
    command = RunAttempt.model_validate_json(row.value)
    assert (command.attempt, command.overrides, command.timeout_seconds) == (2, {"micro_batch": 4}, 120)
    assert (command.repairs, [one.step for one in command.resume_from]) == ([repair], [9, 6])


async def test_a_worker_that_nobody_has_heard_is_given_no_work(scheduler: Scheduler) -> None:
    """The log may tell of workers of long ago: a scheduler that begins anew on it reads all of them."""
    scheduler.leases.pulses.clear()
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    assert not await scheduler.holds_a_place()
    await scheduler.live(1, [])
    await scheduler.passes.place()
    assert await scheduler.holds_a_place()


async def test_a_command_that_waits_to_be_sent_is_not_missed(scheduler: Scheduler) -> None:
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    await scheduler.live(300, [])  # the relay cannot send, while heartbeats and probes come through
    assert await scheduler.holds_a_place()
    await scheduler.is_sent()
    await scheduler.live(29, [])
    assert await scheduler.holds_a_place()
    await scheduler.live(4, [])
    assert not await scheduler.holds_a_place()


async def test_a_run_that_its_worker_never_lists_is_given_up(scheduler: Scheduler) -> None:
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    await scheduler.is_sent()
    await scheduler.live(29, [])
    assert await scheduler.holds_a_place()
    await scheduler.live(4, [])
    assert not await scheduler.holds_a_place()


async def test_a_run_that_was_given_up_is_stopped_at_the_next_heartbeat_that_names_it(
    scheduler: Scheduler,
) -> None:
    """Heartbeats are compared with what passes know, which is behind the store until the next of them."""
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    assert await scheduler.beat([KNOWN]) == [], "the pass that placed it has not folded it yet"
    await scheduler.passes.sweep()
    assert await scheduler.beat([KNOWN]) == []
    await scheduler.hear(task_event(version=2, status=TaskStatus.CANCELLED, attempt=1))
    for known in ("released, by the store", "by the board", "placed again"):
        (stop,) = await scheduler.beat([KNOWN])
        assert isinstance(stop, StopAttempt), known
        assert (stop.task_id, stop.attempt, stop.grace_seconds) == (TASK, 1, 0)
        await scheduler.hear(task_event(version=3, attempt=1))
        await scheduler.passes.place()
        await scheduler.passes.sweep()


async def test_a_word_from_before_an_attempt_asks_for_no_other_one(scheduler: Scheduler) -> None:
    """Topics have no order among them: a task's relay may be late by more than a whole run takes."""
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    assert len(await scheduler.commands(RunAttempt)) == 1
    over = AttemptDocument(task_id=TASK, attempt=1, version=2, worker_id="w", incarnation="one", started_at=MOMENT)
    await scheduler.hear(AttemptEnded(attempt=over.model_copy(update={"outcome": Outcome.COMPLETED})))
    await scheduler.hear(task_event(version=2, reason="no worker has 1 CPU free"))
    await scheduler.passes.place()
    assert await scheduler.commands(RunAttempt) == []
    await scheduler.hear(task_event(version=5, attempt=1, phase=TaskPhase.BACKING_OFF))
    await scheduler.passes.place()
    (command,) = await scheduler.commands(RunAttempt)
    assert command.attempt == 2


async def test_time_in_which_nobody_could_be_heard_does_not_count(scheduler: Scheduler) -> None:
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    await scheduler.is_sent()
    await scheduler.live(20, [])
    await scheduler.live(600, None, probes=False)  # Kafka is away, and the command with it
    await scheduler.live(20, [])
    assert await scheduler.holds_a_place()
    await scheduler.live(20, [KNOWN])
    await scheduler.live(29, [])
    assert await scheduler.holds_a_place(), "it is counted anew once it was listed"


async def test_what_a_worker_says_of_a_run_s_habits_counts_when_places_are_needed(scheduler: Scheduler) -> None:
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    assert not (await scheduler.passes.look()).state.runs[TASK].heeds_stop
    beat = WorkerHeartbeat(worker_id="w", incarnation="one", time=MOMENT, running=[KNOWN], heeding=[TASK])
    with contextlib.suppress(StoreUnavailable):
        async with scheduler.store.transaction() as tx:
            await scheduler.handlers.on_heartbeat(beat, tx=tx, clock=scheduler.clock)
            raise StoreUnavailable("its commit fails")
    assert not (await scheduler.passes.look()).state.runs[TASK].heeds_stop
    await scheduler.hear(beat)
    assert (await scheduler.passes.look()).state.runs[TASK].heeds_stop
    await scheduler.hear(beat.model_copy(update={"heeding": []}))
    scheduler.passes.board.forget()
    assert (await scheduler.passes.look()).state.runs[TASK].heeds_stop, "another one who leads knows it too"


async def test_a_run_whose_checkpoint_is_due_is_asked_to_go_once_it_has_saved(scheduler: Scheduler) -> None:
    config = TaskConfig(recipe="script", resource_requirements={"cpu": 4})
    at_work: dict[str, Any] = {"attempt": 1, "worker_id": "w", "phase": TaskPhase.TRAINING}
    saved = [Checkpoint(step=step, attempt=1, manifest=f"{step:064x}", saved_at=MOMENT) for step in (2, 1)]

    async def asked() -> list[StopAttempt]:
        await scheduler.live(1, [KNOWN])
        await scheduler.passes.place()
        return await scheduler.commands(StopAttempt)

    await scheduler.hear(task_event(config=config))
    assert await asked() == []
    await scheduler.live(100, [KNOWN])
    await scheduler.hear(task_event(version=2, config=config, checkpoints=saved[1:], **at_work))
    await scheduler.hear(task_event(version=3, config=config, checkpoints=saved[1:], **at_work))
    scheduler.passes.board.forget()  # another one who leads knows when the next is due
    await scheduler.live(60, [KNOWN])
    await scheduler.hear(task_event(2, config=config.model_copy(update={"priority": 5})))
    assert await asked() == []
    board = await scheduler.passes.look()
    (waiting,) = board.state.queue.waiting.values()
    says = f"{TASK} saves its next checkpoint and gives its place up, expected within 49 s"
    assert why(board.state, waiting, board.now(), {}).unblocked_by[0] == says
    await scheduler.live(39, [KNOWN])
    assert await asked() == []
    await scheduler.hear(task_event(version=4, config=config, checkpoints=saved, **at_work))
    (stop,) = await asked()
    assert (stop.task_id, stop.kind) == (TASK, StopKind.PREEMPT)
