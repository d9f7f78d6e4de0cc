"""The task service's handlers over a real store: topics that overtake each other, repeats, and announcements."""

import random
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from services.task import domain, handlers
from services.task.reactions import REACTIONS
from services.task.store import COLLECTIONS, attempts_of, get_task, history_of, save_task, stored_task
from services.task.views import task_view
from tests.runtime_kit import FastClock, record
from tests.unit.task_facts import a_running_task, a_task, at, changed, end, saved
from trainwright.contracts.attempt import AttemptEnded, AttemptStarted, CheckpointSaved, Outcome
from trainwright.contracts.base import Event
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.gang import MemberEnded, MemberEnding
from trainwright.contracts.pulse import AttemptProgressed
from trainwright.contracts.queue import Member, PlacementAssigned, WorkerLost
from trainwright.contracts.task import StopKind, TaskPhase, TaskStatus
from trainwright.contracts.topics import ATTEMPT, PULSE, QUEUE, Topic
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, apply
from trainwright.storage.sqlite import SqliteStore

TASK = "task-1"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "task.db", (*COLLECTIONS, DEAD_LETTERS))
    await made.open()
    yield made
    await made.close()


def progressed(attempt: int, seq: int, step: int) -> AttemptProgressed:
    return AttemptProgressed(
        task_id=TASK, attempt=attempt, worker_id="worker-1", seq=seq, phase=TaskPhase.TRAINING, step=step
    )


WHAT_HAPPENED: dict[Topic, list[Event]] = {
    QUEUE: [
        PlacementAssigned(placement=at(1)),
        WorkerLost(placement=at(1, "silent").model_copy(update={"version": 2})),
        PlacementAssigned(placement=at(2).model_copy(update={"version": 3})),
    ],
    ATTEMPT: [
        AttemptStarted(attempt=saved(1).model_copy(update={"version": 1})),
        CheckpointSaved(attempt=saved(1, 10)),
        CheckpointSaved(attempt=saved(1, 10, 20).model_copy(update={"version": 3})),
        AttemptStarted(attempt=saved(2, resume_step=10).model_copy(update={"version": 1})),
        CheckpointSaved(attempt=saved(2, 30, resume_step=10)),
        AttemptEnded(attempt=end(2, Outcome.PAUSED, None, 30, 40, resume_step=10)),
    ],
    PULSE: [progressed(1, 1, 5), progressed(1, 2, 25), progressed(2, 1, 30), progressed(2, 2, 40)],
}
"""A worker is lost, the next attempt goes on from step 10 and is paused. Topics keep their order, nothing else."""


async def tell(store: SqliteStore, clock: FastClock, topic: Topic, event: Event, number: int) -> None:
    inbound = Inbound("task", topic, REACTIONS[topic], store, clock)
    await apply([record(event, offset=number, id=f"{topic.name}-{number}")], inbound)


@pytest.mark.parametrize("seed", range(25))
async def test_topics_overtake_each_other_and_say_things_twice(store: SqliteStore, seed: int) -> None:
    """Whenever the pause is asked for, the task comes to rest with what its newest attempt has saved."""
    dice, clock = random.Random(seed), FastClock()
    told = dict.fromkeys(WHAT_HAPPENED, 0)
    async with store.transaction() as tx:
        waiting = changed(domain.start(a_task(), clock.now()))
        await tx.put("tasks", TASK, a_task().model_dump(mode="json"))
        await save_task(tx, waiting, actor="tests", cause="asked to run", changes={})
    asked = False
    while left := [topic for topic in told if told[topic] < len(WHAT_HAPPENED[topic])]:
        topic = dice.choice(left)
        if not asked and (dice.random() < 0.1 or isinstance(WHAT_HAPPENED[topic][told[topic]], AttemptEnded)):
            async with store.transaction() as tx:
                await handlers.pause_task(TASK, actor="tests", tx=tx, clock=clock)
            asked = True
        again = dice.randrange(told[topic] + 1)
        for number in {again, told[topic]}:
            await tell(store, clock, topic, WHAT_HAPPENED[topic][number], number)
        told[topic] += 1
    task = await get_task(store, TASK)
    assert (task.status, task.phase, task.stop, task.worker_id) == (TaskStatus.PAUSED, TaskPhase.HELD, None, None)
    assert task.attempt == 2
    saved_at = [(one.attempt, one.step) for one in task.checkpoints]
    assert saved_at[:2] == [(2, 40), (2, 30)]
    assert saved_at[2:] in ([], [(1, 10)]), "what attempt 1 saved after step 10 is no past of attempt 2"
    history = await history_of(store, TASK)
    versions = [entry.version for entry in history]
    assert versions == sorted(set(versions))
    assert versions[-1] <= task.version
    second = (await attempts_of(store, TASK))[-1]
    assert (second.attempt, second.outcome, second.resume_step) == (2, "paused", 10)
    assert (await store.find(DEAD_LETTERS.name)).items == []


async def test_a_run_that_was_given_up_shows_nothing_any_more(store: SqliteStore) -> None:
    clock = FastClock()
    async with store.transaction() as tx:
        running = a_running_task().model_copy(update={"version": 1})
        await save_task(tx, running, actor="tests", cause="started", changes={})
    await tell(store, clock, PULSE, progressed(1, 1, 30), 0)
    await tell(store, clock, QUEUE, WorkerLost(placement=at(1, "silent")), 0)
    await tell(store, clock, PULSE, progressed(1, 2, 60), 1)
    view = await task_view(store, await stored_task(store, TASK))
    assert (view.status, view.progress.current_step) == (TaskStatus.PENDING, 30)


async def test_a_successor_does_not_stand_where_the_run_that_it_replaced_has_come_since(
    store: SqliteStore,
) -> None:
    clock = FastClock()
    async with store.transaction() as tx:
        running = a_running_task(2).model_copy(update={"version": 1})
        await save_task(tx, running, actor="tests", cause="started", changes={})
    starting = progressed(2, 1, 0).model_copy(update={"phase": TaskPhase.STARTING, "latest_metrics": {}})
    for number, event in enumerate((progressed(1, 1, 60), starting)):
        await tell(store, clock, PULSE, event, number)
    view = await task_view(store, await stored_task(store, TASK))
    assert (view.status, view.attempt, view.progress.current_step) == (TaskStatus.RUNNING, 2, 0)


async def test_an_attempt_that_has_nothing_left_to_log_stands_where_it_went_on_from(store: SqliteStore) -> None:
    """Lost between its last checkpoint and its end: the next attempt only says that all of it is done."""
    clock = FastClock()
    async with store.transaction() as tx:
        running = a_running_task().model_copy(update={"version": 1})
        await save_task(tx, running, actor="tests", cause="started", changes={})
    last = {"total_steps": 40, "latest_metrics": {"loss": 0.25}}
    second = {"task_id": TASK, "attempt": 2, "worker_id": "worker-1"}
    starting = AttemptProgressed(**second, seq=2, phase=TaskPhase.STARTING)
    training = AttemptProgressed(**second, seq=3, phase=TaskPhase.TRAINING, step=40)
    assigned = at(2).model_copy(update={"version": 3})
    await tell(store, clock, PULSE, progressed(1, 1, 40).model_copy(update=last), 0)
    await tell(store, clock, QUEUE, WorkerLost(placement=at(1, "silent").model_copy(update={"version": 2})), 0)
    await tell(store, clock, QUEUE, PlacementAssigned(placement=assigned), 1)
    for number, event in enumerate((starting, training), 1):
        await tell(store, clock, PULSE, event, number)
        view = await task_view(store, await stored_task(store, TASK))
        assert (view.progress.current_step, view.progress.percentage) == (40, 100.0)
    ended = end(2, Outcome.COMPLETED, None, 40, resume_step=40).model_copy(update={"final_step": None})
    await tell(store, clock, ATTEMPT, AttemptEnded(attempt=ended), 0)
    view = await task_view(store, await stored_task(store, TASK))
    assert (view.status, view.progress.current_step, view.progress.percentage) == (TaskStatus.COMPLETED, 40, 100.0)
    assert view.latest_metrics == {"loss": 0.25}


async def members(store: SqliteStore, attempt: int) -> list[tuple[int, str, str, str | None]]:
    (found,) = [one for one in await attempts_of(store, TASK) if one.attempt == attempt]
    return [(one.rank, one.worker_id, one.state, one.failure_class) for one in found.members]


async def test_an_attempt_on_several_workers_lists_them_with_how_each_stands(store: SqliteStore) -> None:
    clock = FastClock()
    async with store.transaction() as tx:
        await tx.put("tasks", TASK, a_task().model_dump(mode="json"))
        waiting = changed(domain.start(a_task(), clock.now()))
        await save_task(tx, waiting, actor="tests", cause="asked to run", changes={})
    seats = [Member(rank=rank, worker_id=f"worker-{rank}", incarnation="one") for rank in range(3)]
    gang = at(1).model_copy(update={"members": seats, "worker_id": "worker-0"})
    why = Failure(failure_class=FailureClass.OUT_OF_MEMORY, message="out of memory")
    over = {"task_id": TASK, "attempt": 1, "incarnation": "one"}
    one = MemberEnding(**over, rank=1, worker_id="worker-1", outcome=Outcome.FAILED, failure=why)
    zero = MemberEnding(**over, rank=0, worker_id="worker-0", outcome=Outcome.INTERRUPTED)
    await tell(store, clock, ATTEMPT, MemberEnded(member=one), 0)
    await tell(store, clock, QUEUE, PlacementAssigned(placement=gang), 0)  # after what it tells of
    failed = (1, "worker-1", "failed", "out_of_memory")
    assert await members(store, 1) == [
        (0, "worker-0", "starting", None),
        failed,
        (2, "worker-2", "starting", None),
    ]
    await tell(store, clock, ATTEMPT, AttemptStarted(attempt=saved(1).model_copy(update={"version": 1})), 1)
    assert await members(store, 1) == [(0, "worker-0", "running", None), failed, (2, "worker-2", "running", None)]
    await tell(store, clock, ATTEMPT, MemberEnded(member=zero), 2)
    ended = end(1, Outcome.FAILED, FailureClass.OUT_OF_MEMORY)
    await tell(store, clock, ATTEMPT, AttemptEnded(attempt=ended), 3)
    gone = (2, "worker-2", "lost", None)
    assert await members(store, 1) == [(0, "worker-0", "interrupted", None), failed, gone]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "pending", "phase": "waiting_slots"}, True),
        ({"status": "pending", "phase": "backing_off"}, True),
        ({"status": "pending", "phase": "starting"}, True),
        ({"status": "running", "phase": "stopping", "stop": "pause"}, True),
        ({"status": "paused", "phase": "held", "worker_id": "worker-1"}, True),
        ({"status": "paused", "phase": "held", "worker_id": None}, False),
        ({"status": "running", "phase": "training"}, False),
        ({"status": "pending", "phase": "not_started"}, False),
        ({"status": "completed", "phase": "ended"}, False),
    ],
)
async def test_what_waits_for_an_answer_is_announced(
    store: SqliteStore, changes: dict[str, str | None], said: bool
) -> None:
    clock = FastClock()
    task = a_running_task().model_copy(update={"version": 1, "updated_at": clock.now() + timedelta(hours=1)})
    document = task.model_dump(mode="json") | changes
    async with store.transaction() as tx:
        await save_task(tx, type(task).model_validate(document), actor="tests", cause="x", changes={})
    announcer = handlers.Announcer(store, clock)  # the clock was set back by an hour meanwhile: no matter
    await announcer.run()
    assert await store.outbox_depth() == 0, "nobody had the time to answer yet"
    await announcer.run()
    rows = await store.outbox_pending("event", 10)
    assert len(rows) == (1 if said else 0)


async def test_all_that_waits_is_announced_however_much_it_is(store: SqliteStore) -> None:
    clock, waiting = FastClock(), 450
    stopping = {"phase": TaskPhase.STOPPING, "stop": StopKind.PAUSE}
    queued = {"status": TaskStatus.PENDING, "phase": TaskPhase.WAITING_SLOTS}
    async with store.transaction() as tx:
        for number in range(waiting):
            changes = {"task_id": f"task-{number:012x}", "version": 1, **(queued if number % 2 else stopping)}
            task = a_running_task().model_copy(update=changes)
            await save_task(tx, task, actor="tests", cause="x", changes={})
    announcer = handlers.Announcer(store, clock)
    await announcer.run()
    await announcer.run()
    rows = await store.outbox_pending("event", 2 * waiting)
    assert sorted(row.key for row in rows) == [f"task-{number:012x}" for number in range(waiting)]
