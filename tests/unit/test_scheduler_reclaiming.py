"""A quota that is lowered: who keeps its place, who gives it up, and a standby that was the one to be asked."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.scheduler import requests
from services.scheduler.domain.pool import Room
from services.scheduler.domain.reclaiming import over_the_quota
from services.scheduler.domain.shares import MIB, Quota
from services.scheduler.domain.state import Run
from services.scheduler.reactions import reactions
from services.scheduler.store import find_entry
from tests.runtime_kit import MOMENT, task_event
from tests.scheduling_kit import NOW, a_host, a_run, a_state
from tests.unit.test_scheduler_passes import Scheduler, a_store
from trainwright.contracts.base import Event
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.quota import SetQuota, StrategyChanged
from trainwright.contracts.task import StopKind, TaskPhase, TaskStatus
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.topics import RESOURCE
from trainwright.contracts.worker import WorkerDocument
from trainwright.storage.sqlite import SqliteStore

FOUR_GPUS = Room((0, 1, 2, 3), 1, 0)


def of_vision(name: str, part: Room, since: float, **fields: Any) -> Run:
    return a_run(name, [("worker-1", part)], strategy="vision", since=NOW - since, **fields)


def one_gpu(index: int) -> Room:
    return Room((index,), 1, 0)


@pytest.mark.parametrize(
    ("quota", "runs", "going"),
    [
        (Quota(max_workers=2), [of_vision("a", one_gpu(0), 9), of_vision("b", one_gpu(1), 5)], []),
        (Quota(max_workers=1), [of_vision("a", one_gpu(0), 9), of_vision("b", one_gpu(1), 5)], ["b"]),
        (
            Quota(max_workers=1),
            [of_vision("a", one_gpu(0), 9), of_vision("b", one_gpu(1), 5, priority=1)],
            ["a"],
        ),
        (
            Quota(max_workers=1),
            [of_vision("a", one_gpu(0), 9), of_vision("b", one_gpu(1), 5, preemptible=False)],
            ["a"],
        ),
        (
            Quota(max_workers=1),
            [of_vision("a", one_gpu(0), 9), of_vision("b", one_gpu(1), 5, stopping=True)],
            [],
        ),
        (  # one that has no GPU is none the nearer to a limit of GPU memory
            Quota(gpu_memory_mb=40),
            [of_vision("a", FOUR_GPUS, 9), of_vision("b", one_gpu(4), 5), of_vision("c", Room((), 1, 0), 1)],
            ["b"],
        ),
        (  # b alone is not enough, and with a gone it may stay
            Quota(gpu_memory_mb=10),
            [of_vision("a", FOUR_GPUS, 9), of_vision("b", one_gpu(4), 5)],
            ["a"],
        ),
        (Quota(max_workers=1), [a_run("a", [("worker-1", one_gpu(0))]), of_vision("b", one_gpu(1), 5)], []),
    ],
)
def test_those_go_that_lose_the_least_and_no_more_than_must(
    quota: Quota, runs: list[Run], going: list[str]
) -> None:
    state = a_state([a_host(cpus=64, gpus=8, each=10 * MIB)], runs=runs)
    assert [run.task_id for run in over_the_quota("vision", quota, state, NOW)] == going


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    async with a_store(tmp_path) as made:
        yield made


@pytest.fixture
async def scheduler(store: SqliteStore) -> Scheduler:
    found = Scheduler(store)
    worker = WorkerDocument(
        worker_id="w", incarnation="one", version=1, hostname="here", cpus=64, memory=2**34, registered_at=MOMENT
    )
    await found.meet(worker)
    return found


OF_VISION: dict[str, Any] = {"config": TaskConfig(recipe="script", strategy="vision")}


async def decide(scheduler: Scheduler, **wish: Any) -> list[Event]:
    """Set the quota as a request does; return what follows."""
    async with scheduler.store.transaction() as tx:
        board = await scheduler.passes.look_in(tx)
        _, events = await requests.set_quota(
            "vision",
            SetQuota(**wish),
            board,
            grace=30,
            actor="tests",
            tx=tx,
            clock=scheduler.clock,
        )
        board.touch("strategies", "vision")
    return list(events)


async def placed(scheduler: Scheduler, number: int) -> bool:
    await scheduler.hear(task_event(number, **OF_VISION))
    await scheduler.passes.place()
    return len(await scheduler.commands(RunAttempt)) == 1


async def test_runs_over_a_lowered_quota_save_and_wait_if_that_is_asked_for(scheduler: Scheduler) -> None:
    for number in (1, 2, 3):
        assert await placed(scheduler, number)
        await scheduler.clock.sleep(60)
    assert [type(one) for one in await decide(scheduler, max_workers=1)] == [StrategyChanged]
    changed, *stops = await decide(scheduler, max_workers=2, reclaim=True)
    assert isinstance(changed, StrategyChanged)
    (stop,) = stops
    youngest = task_event(3).task.task_id
    assert isinstance(stop, StopAttempt)
    assert (stop.task_id, stop.kind, stop.grace_seconds) == (youngest, StopKind.PREEMPT, 30)
    assert "over the quota of strategy vision" in stop.reason
    assert len(await decide(scheduler, max_workers=2, reclaim=True)) == 1, "it was asked already"

    board = await scheduler.passes.look()
    assert {name for name, run in board.state.runs.items() if run.stopping} == {youngest}
    at_work = {"attempt": 1, "status": TaskStatus.RUNNING, "phase": TaskPhase.TRAINING, "worker_id": "w"}
    await scheduler.hear(task_event(3, version=2, **OF_VISION, **at_work))  # whatever is news of it
    entry = await find_entry(scheduler.store, youngest)
    assert entry is not None
    assert entry.asked is StopKind.PREEMPT
    assert len(await decide(scheduler, max_workers=1, reclaim=True)) == 2, "the next one, and not it again"


async def test_what_a_standby_was_asked_for_holds_for_the_leader(scheduler: Scheduler, store: SqliteStore) -> None:
    standby = Scheduler(store)
    standby.passes.leads = False

    async def tell(event: Event) -> None:
        handler = reactions(scheduler.handlers)[RESOURCE][type(event)]
        async with store.transaction() as tx:
            assert list(await handler(event, tx=tx, clock=scheduler.clock)) == []

    assert await placed(scheduler, 1)
    (changed,) = await decide(standby, max_workers=1)
    await tell(changed)
    assert not await placed(scheduler, 2)
    await tell((await decide(standby, max_workers=2))[0])
    await scheduler.passes.place()
    assert len(await scheduler.commands(RunAttempt)) == 1
    _, *stops = await decide(standby, max_workers=1, reclaim=True)
    assert len(stops) == 1, "it has looked again who runs by now"
