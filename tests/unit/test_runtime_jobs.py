"""Jobs side by side: the end of one ends all, whatever they do about it."""

import asyncio

import pytest

from tests.runtime_kit import FastClock
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime import jobs
from trainwright.runtime.jobs import repeated, together


async def test_the_end_of_one_ends_the_others() -> None:
    ended = []

    async def lasts() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("lasts")

    async def ends() -> None:
        await asyncio.sleep(0)

    async def last_word() -> None:
        ended.append("told")

    await together([lasts, ends], ending=last_word)
    assert sorted(ended) == ["lasts", "told"]


async def test_what_one_raises_is_raised() -> None:
    async def fails() -> None:
        raise RuntimeError("a mistake")

    with pytest.raises(RuntimeError, match="a mistake"):
        await together([fails, asyncio.Event().wait])  # type: ignore[list-item]


async def test_a_job_that_forgets_that_it_was_cancelled_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "CANCEL_AGAIN_AFTER", 0.01)
    forgot = 0

    async def forgets() -> None:
        nonlocal forgot
        while forgot < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                forgot += 1

    async def ends() -> None:
        await asyncio.sleep(0)

    await together([forgets, ends])
    assert forgot == 3


async def test_what_is_done_again_and_again_goes_on_whatever_it_raises(caplog: pytest.LogCaptureFixture) -> None:
    errors, clock, worked = (
        [StoreUnavailable("no answer"), RuntimeError("a mistake")],
        FastClock(),
        asyncio.Event(),
    )

    async def sweep() -> None:
        if errors:
            raise errors.pop(0)
        worked.set()

    sweeping = asyncio.create_task(repeated(sweep, every=3, name="sweeping", clock=clock)())
    await asyncio.wait_for(worked.wait(), 5)
    sweeping.cancel()
    await asyncio.gather(sweeping, return_exceptions=True)
    assert [record.message for record in caplog.records] == [
        "sweeping waits: no answer",
        "sweeping failed; it is tried again",
    ]
    assert set(clock.slept) == {3}
