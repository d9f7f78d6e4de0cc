"""A turn of events and the pass that they ask for are one transaction, whatever becomes of it."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from services.scheduler import passes as scheduler_passes
from services.scheduler.reactions import reactions
from services.scheduler.routes import build_router
from tests.harness import eventually
from tests.integration.runtime_parts import running
from tests.runtime_kit import record, task_event
from tests.unit.test_scheduler_passes import TASK, Scheduler, a_store, a_worker
from trainwright.contracts.base import Event
from trainwright.contracts.command import RunAttempt
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.task import TaskStatus
from trainwright.contracts.topics import TOPIC_OF
from trainwright.runtime.apply import Inbound, apply, apply_each
from trainwright.storage.document import Transaction


class Turns(Scheduler):
    """A scheduler that is handed turns of records, as its consumer does."""

    def inbound(self, event: Event, follow_up: Any = None) -> Inbound:
        topic = TOPIC_OF[type(event)]
        handlers = reactions(self.handlers)[topic]
        return Inbound("scheduler", topic, handlers, self.store, self.clock, follow_up or self.passes.follow_up)

    async def turn(self, *events: Event, follow_up: Any = None) -> None:
        await apply([record(one) for one in events], self.inbound(events[0], follow_up))


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[Turns]:
    async with a_store(tmp_path) as store:
        found = Turns(store)
        await found.meet(a_worker())
        yield found


async def commands(scheduler: Turns) -> list[str]:
    """Return for whom a worker was told to run an attempt, since this was asked last."""
    return [one.task_id for one in await scheduler.commands(RunAttempt)]


async def test_who_hears_of_a_task_gives_it_its_place_at_once(scheduler: Turns) -> None:
    await scheduler.turn(task_event())
    assert await commands(scheduler) == [TASK]
    assert await scheduler.holds_a_place()


async def test_who_asks_why_is_answered_though_the_scheduler_hears_of_the_task_only_now(scheduler: Turns) -> None:
    app = FastAPI()
    app.include_router(build_router(scheduler.passes, scheduler.leases))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://scheduler") as api:
        asked = asyncio.create_task(api.get(f"/tasks/{TASK}/why"))
        await asyncio.sleep(0.1)  # it looks for the task before the task is there
        await scheduler.turn(task_event())
        answer = await asked
    assert (answer.status_code, answer.json()["task_id"]) == (200, TASK)


async def test_a_turn_that_was_not_committed_leaves_nothing_behind(scheduler: Turns) -> None:
    async def lost(tx: Transaction) -> Any:
        await scheduler.passes.follow_up(tx)
        raise StoreUnavailable("the disk is full")

    with pytest.raises(StoreUnavailable):
        await scheduler.turn(task_event(), follow_up=lost)
    await scheduler.passes.place()
    board = scheduler.passes.board
    assert (await commands(scheduler), dict(board.state.runs), dict(board.state.queue.waiting)) == ([], {}, {})
    await scheduler.turn(task_event())
    assert await commands(scheduler) == [TASK]


async def test_what_was_lost_of_a_known_task_is_known_no_more(scheduler: Turns) -> None:
    """The board has folded that the run was cancelled; the store has not."""

    async def lost(tx: Transaction) -> Any:
        await scheduler.passes.follow_up(tx)
        raise StoreUnavailable("the disk is full")

    await scheduler.turn(task_event())
    assert await commands(scheduler) == [TASK]
    cancelled = task_event(version=2, status=TaskStatus.CANCELLED, attempt=1)
    with pytest.raises(StoreUnavailable):
        await scheduler.turn(cancelled, follow_up=lost)
    assert list((await scheduler.passes.look()).state.runs) == [TASK]
    await scheduler.turn(cancelled)
    assert list((await scheduler.passes.look()).state.runs) == []


async def test_a_pass_that_fails_takes_no_event_along(scheduler: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(scheduler_passes, "plan", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            await scheduler.turn(task_event())
        await apply_each([record(task_event())], scheduler.inbound(task_event()))
        assert scheduler.clock.slept[-1:] != [0.04], "the first try is enough"
    assert await commands(scheduler) == []
    await scheduler.passes.place()
    assert await commands(scheduler) == [TASK]
    await scheduler.turn(task_event(2))
    assert await commands(scheduler) == [task_event(2).subject], "the next turn is followed by its own pass again"


async def test_who_waits_gets_its_place_once_the_store_that_was_away_is_back(
    scheduler: Turns, caplog: pytest.LogCaptureFixture
) -> None:
    await scheduler.hear(task_event())
    await scheduler.store.close()
    async with running(scheduler.passes.place_for_ever()):
        await eventually(lambda: "placing waits" in caplog.text, within=5, what="a first try")
        await scheduler.store.open()
        await eventually(scheduler.holds_a_place, within=5, what="its place")
    assert await commands(scheduler) == [TASK]
