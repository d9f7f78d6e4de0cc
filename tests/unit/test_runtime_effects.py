"""Effects run after the commit, in order, until they succeed or are given up; waits grow and begin again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.runtime_kit import COLLECTIONS, FastClock, queued, task_event
from trainwright.contracts.base import Event
from trainwright.runtime import effects
from trainwright.runtime.clock import Backoff, Clock, SystemClock, derived_id
from trainwright.runtime.effects import TRIES, EffectHandler, EffectRunner, Outcome
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import Effect, announcement, emit
from trainwright.storage.document import DocumentStore, Transaction
from trainwright.storage.sqlite import SqliteStore

TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "effects.db", COLLECTIONS)
    await made.open()
    yield made
    await made.close()


async def want(store: DocumentStore, *numbers: int) -> None:
    """Save effects."""
    async with store.transaction() as tx:
        effects = [Effect("render", f"key-{n}", {"n": n}) for n in numbers]
        await emit(tx, effects, source="result", cause=Cause("cause", TRACE), clock=FastClock())


async def eventually(check: Callable[[], bool]) -> None:
    """Wait until a check is true."""
    for _ in range(1000):
        if check():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came true")


async def no_more_pending(store: DocumentStore) -> None:
    """Wait until every effect is done."""
    for _ in range(1000):
        if not await store.outbox_pending("effect", 1):
            return
        await asyncio.sleep(0.005)
    raise AssertionError("effects are still pending")


async def run_until_done(store: DocumentStore, handler: EffectHandler, clock: Clock) -> None:
    """Run effects until none is pending."""
    runner = asyncio.create_task(EffectRunner("result", store, {"render": handler}, clock).run())
    await no_more_pending(store)
    assert not runner.done(), "running effects ends with the process only"
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


class Rendering:
    """An effect that renders, and saves that it did."""

    def __init__(self, **failures: int) -> None:
        self.failures = failures
        self.outside: list[int] = []

    def fail(self, where: str) -> None:
        if self.failures.get(where, 0) > 0:
            self.failures[where] -= 1
            raise RuntimeError(f"fails {where}")

    async def __call__(self, arguments: dict[str, Any]) -> Outcome:
        self.fail("outside")
        self.outside.append(arguments["n"])

        async def outcome(*, tx: Transaction, clock: Clock) -> Sequence[Event]:
            await tx.put("seen", str(arguments["n"]), {"id": str(arguments["n"])})
            self.fail("inside")
            return [queued("task-1", arguments["n"], clock)]

        return outcome


async def test_effects_run_in_order_and_what_they_leave_is_saved_with_their_end(store: SqliteStore) -> None:
    handler = Rendering()
    await want(store, 3, 1, 2)
    await run_until_done(store, handler, FastClock())
    assert handler.outside == [3, 1, 2]
    assert await store.count("seen") == 3
    rows = await store.outbox_pending("event", 10)
    assert [row.id for row in rows] == [
        derived_id(derived_id("result", f"key-{n}"), "trainwright.queue.TaskQueued.v1", 0) for n in (3, 1, 2)
    ]
    assert {dict(row.headers)["ce_traceparent"] for row in rows} == {TRACE}


async def test_an_effect_that_comes_later_is_run_at_once(store: SqliteStore) -> None:
    handler = Rendering()
    runner = asyncio.create_task(EffectRunner("result", store, {"render": handler}, SystemClock()).run())
    await asyncio.sleep(0.05)
    await want(store, 1)
    await eventually(lambda: bool(handler.outside))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


@pytest.mark.parametrize("where", ["outside", "inside"])
async def test_an_effect_that_fails_is_tried_again_before_the_next(store: SqliteStore, where: str) -> None:
    """Also one whose ending cannot be saved: it would otherwise end the whole process, at every start anew."""
    handler, clock = Rendering(**{where: 2}), FastClock()
    await want(store, 1, 2)
    await run_until_done(store, handler, clock)
    assert sorted(set(handler.outside)) == [1, 2]
    assert handler.outside == sorted(handler.outside)
    assert await store.count("seen") == 2
    assert clock.slept == [0.2, 0.4]


@pytest.mark.parametrize("where", ["outside", "inside"])
async def test_an_effect_that_keeps_failing_is_given_up_and_the_next_one_runs(
    store: SqliteStore, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    handler, clock = Rendering(**{where: TRIES}), FastClock()
    await want(store, 1, 2)
    await run_until_done(store, handler, clock)
    assert await store.get("seen", "1") is None
    assert await store.get("seen", "2") is not None
    assert "effect key-1 given up after 5 tries" in caplog.text
    assert clock.slept == [0.2, 0.4, 0.8, 1.6]


async def test_an_effect_that_nobody_knows_is_given_up(store: SqliteStore) -> None:
    await want(store, 1)
    runner = asyncio.create_task(EffectRunner("result", store, {}, FastClock()).run())
    await no_more_pending(store)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)


async def test_a_cancelled_effect_is_run_again(store: SqliteStore) -> None:
    """Killed between its outside part and its end, it is repeated: that is why effects bear a repeat."""
    calls: list[int] = []

    async def hangs(arguments: dict[str, Any]) -> None:
        calls.append(arguments["n"])
        await asyncio.sleep(60)

    await want(store, 1)
    runner = asyncio.create_task(EffectRunner("result", store, {"render": hangs}, SystemClock()).run())
    await eventually(lambda: bool(calls))
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert (await store.outbox_pending("effect", 1))[0].tries == 0
    handler = Rendering()
    await run_until_done(store, handler, FastClock())
    assert handler.outside == [1]


async def test_waits_double_up_to_the_most_and_begin_again() -> None:
    clock = FastClock()
    backoff = Backoff(clock, first=0.1, most=0.5)
    for _ in range(5):
        await backoff.wait()
    backoff.reset()
    await backoff.wait()
    assert clock.slept == pytest.approx([0.1, 0.2, 0.4, 0.5, 0.5, 0.1])


async def test_waits_are_spread_by_chance() -> None:
    clock = FastClock()
    for chance in (0.0, 0.999):
        clock.random = lambda chance=chance: chance  # type: ignore[method-assign, misc]
        await Backoff(clock, first=1.0).wait()
    assert clock.slept == pytest.approx([0.75, 1.25], abs=0.01)


def test_an_announcement_is_new_once_a_minute_and_with_every_version() -> None:
    clock = FastClock()
    first = announcement(task_event(1, 1), clock)
    assert announcement(task_event(1, 1), clock) == first
    assert announcement(task_event(1, 2), clock) != first
    clock.slept.append(60)
    assert announcement(task_event(1, 1), clock) != first


@pytest.mark.parametrize("turns", range(6))
async def test_who_is_told_to_end_beside_a_commit_ends(store: SqliteStore, turns: int) -> None:
    runner = asyncio.create_task(EffectRunner("result", store, {}, SystemClock()).run())
    await asyncio.sleep(0.1)  # it waits for a commit
    store._commits.done(added_outbox=False)
    for _ in range(turns):
        await asyncio.sleep(0)
    runner.cancel()
    _, late = await asyncio.wait({runner}, timeout=5)
    assert not late, "the cancellation was lost, and it would go on for ever"


async def test_a_store_that_goes_before_an_effect_is_marked_done_is_no_effect_s_fault(
    store: SqliteStore, caplog: pytest.LogCaptureFixture
) -> None:
    calls: list[int] = []

    async def render(arguments: dict[str, Any]) -> None:
        calls.append(arguments["n"])
        if len(calls) == 1:
            await store.close()

    await want(store, 1)
    runner = asyncio.create_task(EffectRunner("result", store, {"render": render}, SystemClock()).run())
    await eventually(lambda: "effects wait" in caplog.text)
    await store.open()
    await no_more_pending(store)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    assert calls == [1, 1]
    assert "failed" not in caplog.text


async def test_an_effect_that_another_process_has_saved_is_found_by_looking(
    store: SqliteStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(effects, "IDLE", 0.05)
    handler, other = Rendering(), SqliteStore(tmp_path / "effects.db", COLLECTIONS)
    await other.open()
    runner = asyncio.create_task(EffectRunner("result", store, {"render": handler}, SystemClock()).run())
    await asyncio.sleep(0.1)  # it waits for a commit of its own process
    await want(other, 1)
    await no_more_pending(other)
    runner.cancel()
    await asyncio.gather(runner, return_exceptions=True)
    await other.close()
    assert handler.outside == [1]
