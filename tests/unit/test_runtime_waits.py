"""What is waited for is said at once, now and then, and when it comes."""

import asyncio
import logging
import time

import pytest

from tests.patience import patient
from tests.runtime_kit import COLLECTIONS, FastClock
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.waiting import becomes
from trainwright.runtime.waits import SAID_EVERY, Waits
from trainwright.storage.memory import MemoryStore


async def test_a_missing_part_is_said_now_and_then_until_it_comes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock, tries = FastClock(), 0
    waits = Waits(clock)

    async def open_it() -> None:
        nonlocal tries
        tries += 1
        if tries < 60:
            assert waits.now() == [
                "the store (SETTING): not reached yet" if tries == 1 else "the store (SETTING): no"
            ]
            raise StoreUnavailable("no")

    await waits.reach("the store (SETTING)", open_it)
    assert waits.now() == []
    said = [record.message for record in caplog.records]
    assert said[0] == "waiting for the store (SETTING): no"
    assert said[-1] == "the store (SETTING) is there"
    assert len(said) - 2 == sum(clock.slept) // SAID_EVERY


async def test_another_kind_of_reason_is_said_at_once(caplog: pytest.LogCaptureFixture) -> None:
    waits = Waits(FastClock())
    waits.note("Kafka", OSError("refused"))
    waits.note("Kafka", OSError("refused"))
    waits.note("Kafka", TimeoutError())
    assert [record.message for record in caplog.records] == [
        "waiting for Kafka: refused",
        "waiting for Kafka: TimeoutError",
    ]


async def test_a_part_that_is_there_is_not_talked_about(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)

    async def is_there() -> None:
        return None

    await Waits(FastClock()).reach("Kafka", is_there)
    assert caplog.records == []


async def test_a_try_that_drops_its_cancelling_is_the_last() -> None:
    """`asyncio.wait_for` of Python 3.11 does when what it waits for has just failed."""

    tried = asyncio.Event()

    async def open_it() -> None:
        if tried.is_set():
            await asyncio.Event().wait()
        tried.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise StoreUnavailable("no") from None

    reaching = asyncio.create_task(Waits(FastClock()).reach("Kafka", open_it))
    await tried.wait()
    reaching.cancel()
    await asyncio.wait([reaching], timeout=patient(1) - time.monotonic())
    assert reaching.cancelled()


@pytest.mark.parametrize("comes", [False, True])
async def test_news_that_no_commit_of_this_process_told_is_looked_for_once_more(comes: bool) -> None:
    """Another process may have written it meanwhile."""
    looks = 0

    async def check() -> bool:
        nonlocal looks
        looks += 1
        return comes and looks == 2

    assert await becomes(check, MemoryStore(COLLECTIONS), within=0.02) is comes
    assert looks == 2
