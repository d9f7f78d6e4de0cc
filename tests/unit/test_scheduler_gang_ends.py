"""Gangs that end: what may have been lost is said again, silent workers are given up, and who is watched."""

from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from services.scheduler.domain.gangs import Ending
from services.scheduler.members import watched
from services.scheduler.store import ENTRIES, find_entry, get_entry, save_entry
from tests.runtime_kit import MOMENT, task_event
from tests.unit.test_scheduler_passes import TASK, Scheduler, a_store
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, Outcome
from trainwright.contracts.command import ConcludeAttempt, StopAttempt
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.gang import MemberEnded, MemberEnding
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.resource import ResourceRequirements
from trainwright.contracts.task_config import TaskConfig
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerRegistered
from trainwright.storage.sqlite import SqliteStore

KNOWN = AttemptRef(task_id=TASK, attempt=1)
TOGETHER = TaskConfig(recipe="script", resource_requirements=ResourceRequirements(workers=2))


class Gang(Scheduler):
    """A scheduler with two workers that a task runs on."""

    def __init__(self, store: SqliteStore) -> None:
        super().__init__(store)
        self.silent: set[str] = set()
        self.ranks: list[str] = []

    async def begin(self) -> None:
        """Let both register, and place the task."""
        for name in ("w0", "w1"):
            worker = WorkerDocument(
                worker_id=name,
                incarnation="one",
                version=1,
                hostname=name,
                cpus=4,
                memory=2**34,
                registered_at=MOMENT,
            )
            await self.hear(WorkerRegistered(worker=worker))
        await self.seconds(1)
        await self.hear(task_event(config=TOGETHER))
        await self.passes.place()
        await self.seconds(1)
        entry = await get_entry(self.store, TASK)
        self.ranks = [member.worker_id for member in entry.placement.members]

    async def seconds(self, count: int) -> list[tuple[str, str]]:
        """Let time pass in which the workers beat; return the kinds of commands that are sent, and to whom."""
        for _ in range(count):
            await self.clock.sleep(1)
            self.leases.tick()
            self.leases.probe_seen("voice", self.leases.next_probe())
            for name in {"w0", "w1"} - self.silent:
                beat = {"worker_id": name, "incarnation": "one", "time": self.clock.now(), "running": [KNOWN]}
                await self.hear(WorkerHeartbeat(**beat))
            await self.passes.watch()
            await self.passes.sweep()
        return await self.sent()

    async def sent(self) -> list[tuple[str, str]]:
        rows = await self.store.outbox_pending("event", 100)
        await self.is_sent()
        kinds = {kind.__name__: kind for kind in (StopAttempt, ConcludeAttempt)}
        found = []
        for row in rows:
            name = dict(row.headers)["ce_type"].split(".")[-2]
            if name in kinds:
                found.append((name, kinds[name].model_validate_json(row.value).worker_id))
        return found

    async def is_over(self, rank: int, outcome: Outcome = Outcome.FAILED) -> list[tuple[str, str]]:
        """Tell the end of a member; return the commands that follow at once."""
        member = MemberEnding(
            task_id=TASK,
            attempt=1,
            rank=rank,
            worker_id=self.ranks[rank],
            incarnation="one",
            outcome=outcome,
        )
        return await self.answered(MemberEnded(member=member), self.handlers.on_member_ended)

    async def answered(self, event: Any, handler: Any) -> list[tuple[str, str]]:
        async with self.store.transaction() as tx:
            events = await handler(event, tx=tx, clock=self.clock)
        return [(type(one).__name__, one.subject) for one in events]


@pytest.fixture
async def gang(tmp_path: Path) -> AsyncIterator[Gang]:
    async with a_store(tmp_path) as store:
        found = Gang(store)
        await found.begin()
        yield found


async def test_what_is_said_to_a_gang_that_ends_is_said_again_until_it_has_ended(gang: Gang) -> None:
    assert await gang.seconds(40) == [], "nothing is said to one at work"
    zero = gang.ranks[0]
    assert await gang.is_over(1) == [("StopAttempt", zero)]
    assert await gang.seconds(14) == []
    assert await gang.seconds(2) == [("StopAttempt", zero)], "the first may have been lost"
    assert await gang.seconds(15) == [("StopAttempt", zero)]
    assert await gang.is_over(0, Outcome.INTERRUPTED) == [("ConcludeAttempt", zero)]
    assert await gang.seconds(16) == [("ConcludeAttempt", zero)]
    end = AttemptDocument(
        task_id=TASK,
        attempt=1,
        version=9,
        worker_id=zero,
        incarnation="one",
        outcome=Outcome.FAILED,
        ended_at=MOMENT,
    )
    said = await gang.answered(AttemptEnded(attempt=end), gang.handlers.on_attempt_ended)
    assert said == [("PlacementReleased", TASK)]
    assert await gang.seconds(40) == []


@pytest.mark.parametrize("rank", [0, 1])
async def test_a_member_whose_worker_falls_silent_ends_the_attempt_of_all(gang: Gang, rank: int) -> None:
    other = 1 - rank
    gang.silent.add(gang.ranks[rank])
    assert ("StopAttempt", gang.ranks[other]) in await gang.seconds(12)
    entry = await get_entry(gang.store, TASK)
    assert entry.placement.state is PlacementState.ASSIGNED, "the other member still has its place"
    (lost,) = entry.endings
    assert lost.failure is not None
    assert (lost.rank, lost.failure.failure_class) == (rank, FailureClass.WORKER_LOST)
    assert "silent for" in lost.failure.message
    assert [one.rank for one in entry.placement.members if one.lost_at is not None] == [rank]
    said = await gang.is_over(other, Outcome.INTERRUPTED)
    assert said == ([("ConcludeAttempt", gang.ranks[0])] if rank else [("WorkerLost", TASK)])
    entry = await get_entry(gang.store, TASK)
    assert (entry.placement.state is PlacementState.RELEASED) == (rank == 0)
    assert [one.rank for one in entry.placement.members if one.lost_at is not None] == [rank]


async def test_the_board_watches_whom_the_handlers_watch(gang: Gang) -> None:
    kinds = (None, Outcome.COMPLETED, Outcome.FAILED)
    for zero, one in product((*kinds, "at work"), repeat=2):
        said = {rank: outcome for rank, outcome in enumerate((zero, one)) if outcome != "at work"}
        endings = [Ending(rank=r, worker_id=gang.ranks[r], outcome=o) for r, o in said.items()]
        async with gang.store.transaction() as tx:
            entry = await find_entry(tx, TASK)
            assert entry is not None
            entry = replace(entry, endings=tuple(endings))
            await save_entry(tx, entry)
        board = gang.passes.board
        board.touch(ENTRIES.name, TASK)
        await gang.passes.look()
        seated = [member.rank for member in board.standings[TASK].members]
        assert seated == [member.rank for member in watched(entry)], said
