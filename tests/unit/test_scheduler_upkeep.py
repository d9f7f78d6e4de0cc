"""What the scheduler gives back and forgets by itself: reservations that nobody uses, workers that are gone."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from services.scheduler import requests, views
from services.scheduler.store import RESERVATIONS, WORKERS, find_worker
from services.scheduler.upkeep import Upkeep
from tests.runtime_kit import MOMENT, task_event
from tests.unit.test_scheduler_passes import TASK, Scheduler, a_store
from trainwright.contracts.queue import WorkerLost
from trainwright.contracts.quota import Drain, ReservationDocument, Reserve
from trainwright.contracts.task import TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.worker import WorkerDocument, WorkerRegistered, WorkerStopped


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[Scheduler]:
    async with a_store(tmp_path) as store:
        found = Scheduler(store)
        await found.meet(a_worker())
        yield found


def a_worker(version: int = 1, incarnation: str = "one", **fields: Any) -> WorkerDocument:
    return WorkerDocument(
        worker_id="w",
        incarnation=incarnation,
        version=version,
        hostname="here",
        cpus=4,
        memory=2**34,
        registered_at=MOMENT,
        **fields,
    )


async def reserved(scheduler: Scheduler, **wish: Any) -> str:
    async with scheduler.store.transaction() as tx:
        board = await scheduler.passes.look_in(tx)
        wish = {"cpu": 1, "strategy": "vision", "duration": "10h", **wish}
        found, _ = await requests.reserve(Reserve(**wish), board, actor="tests", tx=tx, clock=scheduler.clock)
        board.touch(RESERVATIONS.name, found.reservation_id)
    return found.reservation_id


async def standing(scheduler: Scheduler, id: str) -> tuple[bool, str]:
    found = ReservationDocument.model_validate(await scheduler.store.get(RESERVATIONS.name, id))
    return not found.ended, found.actor


async def rounds(upkeep: Upkeep, scheduler: Scheduler, minutes: int) -> None:
    for _ in range(minutes):
        await scheduler.clock.sleep(60)
        await upkeep.run()


async def test_a_reservation_that_nobody_uses_is_given_back_if_it_says_when(scheduler: Scheduler) -> None:
    upkeep = Upkeep(scheduler.passes)
    idle, kept = await reserved(scheduler, idle_after="30m"), await reserved(scheduler)
    config = TaskConfig(recipe="script", strategy="vision")
    await rounds(upkeep, scheduler, 20)
    await scheduler.hear(task_event(config=config))
    await scheduler.live(1, [])
    await scheduler.passes.place()
    board = await scheduler.passes.look()
    assert [run.reservation for run in board.state.runs.values()] == [idle]
    await rounds(upkeep, scheduler, 60)
    assert await standing(scheduler, idle) == (True, "tests"), "it is in use"
    await scheduler.hear(task_event(version=9, config=config, status=TaskStatus.COMPLETED, attempt=1))
    await rounds(upkeep, scheduler, 29)
    assert await standing(scheduler, idle) == (True, "tests"), "it is counted anew once it was used"
    await scheduler.is_sent()
    await rounds(upkeep, scheduler, 2)
    assert await standing(scheduler, idle) == (False, "scheduler")
    rows = await scheduler.store.outbox_pending("event", 10)
    assert [dict(row.headers)["ce_type"] for row in rows] == ["trainwright.resource.ReservationChanged.v1"]
    board = await scheduler.passes.look()
    assert list(board.state.reservations) == [kept], "its part is free for others"


async def test_a_worker_that_is_gone_is_listed_for_a_day_and_known_for_a_month(scheduler: Scheduler) -> None:
    upkeep, clock = Upkeep(scheduler.passes), scheduler.clock

    async def listed() -> list[tuple[str, str]]:
        board = await scheduler.passes.look()
        assert len(views.pool_view(board).workers) == len(views.listed(board))
        return [(known.worker.worker_id, known.state) for known in views.listed(board)]

    async with scheduler.store.transaction() as tx:
        await requests.drain("w", Drain(), actor="tests", tx=tx, clock=clock)
    scheduler.passes.wake(WORKERS.name, "w")
    pool = (await scheduler.passes.look()).state.pool
    assert (list(pool.hosts), list(pool.drained)) == ([], ["w"])
    await scheduler.hear(WorkerStopped(worker=a_worker(2, stopped=True)))
    assert list((await scheduler.passes.look()).state.pool.drained) == [], "undraining it would not help"
    await clock.sleep(23 * 3600)
    await upkeep.run()
    assert await listed() == [("w", "stopped")]
    await clock.sleep(2 * 3600)
    await upkeep.run()
    assert await listed() == []
    await scheduler.hear(WorkerRegistered(worker=a_worker(3)))  # it comes back, and what was decided holds
    assert await listed() == [("w", "alive")]
    known = await find_worker(scheduler.store, "w")
    assert known is not None
    assert known.cordon is not None
    assert known.gone_at is None
    await scheduler.hear(WorkerStopped(worker=a_worker(4, stopped=True)))
    await clock.sleep(timedelta(days=31).total_seconds())
    await upkeep.run()
    assert await find_worker(scheduler.store, "w") is None
    assert await listed() == []


async def test_a_lost_worker_whose_run_is_waited_for_is_not_forgotten(scheduler: Scheduler) -> None:
    await scheduler.hear(task_event(config=TaskConfig(recipe="script", on_unreachable="wait")))
    await scheduler.passes.place()
    for _ in range(60):
        await scheduler.live(1, None)  # silent, while we can hear
    known = await find_worker(scheduler.store, "w")
    assert known is not None
    assert (known.state, known.gone_at is not None) == ("lost", True)
    await scheduler.clock.sleep(timedelta(days=31).total_seconds())
    await Upkeep(scheduler.passes).run()
    board = await scheduler.passes.look()
    assert [one.worker.worker_id for one in views.listed(board)] == ["w"]
    assert TASK in board.standings


async def test_a_loss_that_its_task_has_not_heard_of_is_said_again(scheduler: Scheduler) -> None:
    """The event that told it may be gone for good: the task would wait for its run for ever."""
    upkeep = Upkeep(scheduler.passes)
    await scheduler.hear(task_event())
    await scheduler.passes.place()
    await scheduler.hear(task_event(version=2, status=TaskStatus.PENDING, phase=TaskPhase.STARTING, attempt=1))
    (lost,) = await scheduler.hear(WorkerRegistered(worker=a_worker(2, incarnation="two")))

    async def said(minutes: int) -> int:
        await scheduler.is_sent()
        await rounds(upkeep, scheduler, minutes)
        rows = await scheduler.store.outbox_pending("event", 100)
        assert all(WorkerLost.model_validate_json(row.value) == lost for row in rows)
        return len(rows)

    assert [await said(1), await said(1), await said(6), await said(600)] == [0, 1, 2, 13], "ever less often"
    await scheduler.hear(task_event(version=3, attempt=1))
    assert await said(600) == 0, "it waits for its next place: it has heard"
