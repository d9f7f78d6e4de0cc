"""Who leads: the lease by a clock that a test moves, over a store in memory that two processes share."""

import asyncio
from datetime import datetime
from pathlib import Path

import pytest

from tests.contract.document_store import COLLECTIONS
from tests.harness import eventually
from tests.runtime_kit import FastClock
from trainwright.contracts.errors import LeaseLost
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.lease import Lease
from trainwright.storage.fence import FENCE
from trainwright.storage.memory import MemoryStore
from trainwright.storage.sqlite import SqliteStore

LENGTH = 8.0


class HandClock(FastClock):
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 100.0
        self._sleepers: list[tuple[float, asyncio.Event]] = []

    def now(self) -> datetime:
        raise AssertionError("a lease never asks what time it is")

    def monotonic(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        until, woken = self._now + seconds, asyncio.Event()
        self._sleepers.append((until, woken))
        await woken.wait()

    async def move(self, seconds: float) -> None:
        """Let time pass in small steps; who sleeps wakes in time."""
        for _ in range(round(seconds / 0.25)):
            self._now += 0.25
            for until, woken in self._sleepers:
                if until <= self._now:
                    woken.set()
            self._sleepers = [one for one in self._sleepers if not one[1].is_set()]
            for _ in range(20):
                await asyncio.sleep(0)


class Process:
    """One process of a service, with a clock of its own: it can be stopped alone."""

    def __init__(self, store: MemoryStore, *, alone: bool = False, writes: bool = True) -> None:
        self.store = store
        self.writes = writes
        self.clock = HandClock()
        self.lease = Lease("things", store, self.clock, length=LENGTH, alone=alone)
        self.epochs: list[int] = []
        self.told = 0
        self.lost = 0
        self._running = asyncio.create_task(self.lease.run([self._work]))

    @property
    def leads(self) -> bool:
        return self.lease.leads

    async def _work(self) -> None:
        fence = FENCE.get()
        assert fence is not None
        self.epochs.append(fence.epoch)
        try:
            if not self.writes:
                await asyncio.Event().wait()
            while True:
                try:
                    async with self.store.transaction() as tx:
                        await tx.put("plain", "leader", {"epoch": fence.epoch})
                    self.told += 1
                except LeaseLost:
                    self.lost += 1
                await self.clock.sleep(1)
        finally:
            self.epochs.append(-fence.epoch)

    async def stop(self) -> None:
        """End it in order."""
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)


async def move(seconds: float, *processes: Process) -> None:
    """Let time pass for some processes; the others stand still."""
    for _ in range(round(seconds / 0.25)):
        for process in processes:
            await process.clock.move(0.25)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore(COLLECTIONS)


async def test_one_leads_and_the_other_waits_as_long_as_it_is_renewed(store: MemoryStore) -> None:
    one, two = Process(store), Process(store)
    await move(10 * LENGTH, one, two)
    assert (one.leads, two.leads) == (True, False)
    assert (one.epochs, two.epochs) == ([1], [])
    await one.stop()
    await two.stop()


async def test_who_is_silent_for_the_length_is_replaced_and_finds_out(store: MemoryStore) -> None:
    one, two = Process(store), Process(store)
    await move(1, one, two)
    await move(LENGTH - 2, two)
    assert not two.leads
    await move(4, two)
    assert two.epochs == [2]
    told = one.told
    await move(3, one, two)  # the first one wakes up
    assert (one.leads, two.leads) == (False, True)
    assert one.told == told, "what it wanted to write was refused"
    assert one.epochs == [1, -1], "its job has ended"
    assert await store.get("plain", "leader") == {"epoch": 2}
    await move(LENGTH + 2, one)  # and now the second one is silent
    assert one.epochs == [1, -1, 3]
    await one.stop()
    await two.stop()


async def test_one_that_has_nothing_to_write_finds_out_too(store: MemoryStore) -> None:
    one, two = Process(store, writes=False), Process(store)
    await move(1, one, two)
    await move(LENGTH + 2, two)
    assert two.leads
    await move(LENGTH / 4 + 1, one, two)
    assert (one.leads, two.leads) == (False, True)
    assert one.epochs == [1, -1]
    await one.stop()
    await two.stop()


async def test_an_orderly_end_lets_the_next_one_lead_at_once(store: MemoryStore) -> None:
    one, two = Process(store), Process(store)
    await move(1, one, two)
    await one.stop()
    await move(1, two)
    assert two.epochs == [2]
    await two.stop()


async def test_of_a_service_with_one_process_the_newest_leads_at_once(store: MemoryStore) -> None:
    old = Process(store, alone=True)
    await move(0.25, old)
    new = Process(store, alone=True)
    await move(0.25, new)
    assert new.epochs == [1 + 1]
    await move(3 * LENGTH, old, new)
    assert (old.leads, new.leads) == (False, True), "one that was left running by mistake stands by"
    assert old.epochs == [1, -1]
    await new.stop()
    await move(1, old)
    assert old.leads
    await old.stop()


async def test_a_leader_alone_writes_nothing_to_stay_one(store: MemoryStore) -> None:
    one = Process(store, alone=True)
    await move(0.25, one)
    before = await store.lease()
    await move(3 * LENGTH, one)
    assert await store.lease() == before
    await one.stop()


async def test_what_a_job_raises_ends_the_process(store: MemoryStore) -> None:
    async def fails() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        await Lease("things", store, HandClock(), length=LENGTH, alone=True).run([fails])
    assert (await store.lease()).holder is None


async def test_a_job_that_finds_out_first_ends_no_process(store: MemoryStore) -> None:
    clock, epochs = HandClock(), list[int]()
    lease = Lease("things", store, clock, length=LENGTH, alone=True)

    async def write_for_ever() -> None:
        fence = FENCE.get()
        assert fence is not None
        epochs.append(fence.epoch)
        while True:
            async with store.transaction() as tx:
                await tx.put("plain", "leader", {"epoch": fence.epoch})
            await clock.sleep(1)

    running = asyncio.create_task(lease.run([write_for_ever]))
    await clock.move(0.25)
    assert await store.take_lease(await store.lease(), "another")
    await clock.move(1)
    assert not running.done()
    assert not lease.leads
    await store.release_lease(2)
    await clock.move(1)
    assert (lease.leads, epochs) == (True, [1, 3])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_store_that_is_away_is_waited_for_and_costs_no_leader_its_lease(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away = SqliteStore(tmp_path / "lease.db", COLLECTIONS)
    lease = Lease("things", away, SystemClock(), length=0.8, alone=False)
    running = asyncio.create_task(lease.run([asyncio.Event().wait]))  # type: ignore[list-item]
    await eventually(
        lambda: "the lease waits for the store" in caplog.text, within=20, what="the store to be missed"
    )
    await away.open()
    await eventually(lambda: lease.leads, within=20, what="the lease to be taken")
    await away.close()
    await eventually(lambda: "cannot be renewed" in caplog.text, within=20, what="the store to be missed again")
    await away.open()
    before = await away.lease()

    async def is_renewed() -> bool:
        return (await away.lease()).beat > before.beat

    await eventually(is_renewed, within=20, what="the lease to be renewed")
    assert lease.leads
    assert (await away.lease()).epoch == before.epoch == 1
    await away.close()
    caplog.set_level("INFO")
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert running.cancelled()
    assert "could not be released" in caplog.text
