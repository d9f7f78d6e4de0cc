"""What every engine of the series port must do. An engine inherits the class and gives its ``desks`` fixture."""

import math
import time
from collections.abc import Awaitable, Callable, Iterable

import pytest

from trainwright.contracts.metric import MetricPoint
from trainwright.storage.document import DocumentStore
from trainwright.storage.series import Series

TASK = "task-0123456789ab"
LONG = 40_010
"""Points of a history that no engine reads at once."""


class Desk:
    """A store and its series; every write is a transaction of its own."""

    def __init__(self, store: DocumentStore, series: Series) -> None:
        self.store = store
        self.series = series

    async def log(self, attempt: int, steps: Iterable[int], *, first: int = 1, offset: float = 0.0) -> int:
        """Log ``loss = step + offset`` at these steps, numbered from ``first``."""
        points = [MetricPoint(n, 1e9 + n, step, {"loss": step + offset}) for n, step in enumerate(steps, first)]
        return await self.put(attempt, points)

    async def put(self, attempt: int, points: list[MetricPoint], task_id: str = TASK) -> int:
        async with self.store.transaction() as tx:
            return await self.series.append(tx, task_id, attempt, points)

    async def note(self, attempt: int, resume_step: int | None = None) -> None:
        async with self.store.transaction() as tx:
            await self.series.note_attempt(tx, TASK, attempt, resume_step)

    async def steps(self) -> list[int]:
        return [step for step, _ in await self.series.points(TASK, "loss")]

    async def tail(self, cursor: int = 0, limit: int = 500) -> list[tuple[int, int]]:
        """Return (attempt, step) of everything after a cursor, read page by page."""
        found = []
        while True:
            tail = await self.series.after(TASK, cursor, None, limit)
            found += [(record.attempt, record.step) for record in tail.records]
            assert tail.cursor >= cursor
            cursor = tail.cursor
            if not tail.more:
                return found


Desks = Callable[[], Awaitable[Desk]]
"""Opens the same store again, as another process would."""


class SeriesContract:
    """Everything that the port promises."""

    @pytest.fixture
    async def desk(self, desks: Desks) -> Desk:
        return await desks()

    async def test_points_come_back_by_step_within_bounds(self, desk: Desk) -> None:
        await desk.log(1, range(1, 101))
        assert await desk.series.points(TASK, "loss", 10, 12) == [(10, 10.0), (11, 11.0), (12, 12.0)]
        assert await desk.series.points(TASK, "loss", 99) == [(99, 99.0), (100, 100.0)]
        assert len(await desk.steps()) == 100
        assert await desk.series.points(TASK, "accuracy") == []

    async def test_repeats_are_dropped_by_number(self, desk: Desk) -> None:
        assert await desk.log(1, [1, 2, 3]) == 3
        assert await desk.log(1, [1, 2, 3, 4]) == 1
        assert await desk.log(1, [2, 3]) == 0
        assert await desk.steps() == [1, 2, 3, 4]
        assert await desk.tail() == [(1, 1), (1, 2), (1, 3), (1, 4)]

    async def test_a_repeat_within_one_batch_is_dropped(self, desk: Desk) -> None:
        twice = [MetricPoint(0, 0.0, 1, {"loss": 1.0}), MetricPoint(0, 0.0, 1, {"loss": 1.0})]
        assert await desk.put(1, twice) == 1

    async def test_each_attempt_has_its_own_numbers(self, desk: Desk) -> None:
        await desk.log(1, [1, 2, 3])
        await desk.note(2, resume_step=3)
        assert await desk.log(2, [4, 5]) == 2
        assert await desk.steps() == [1, 2, 3, 4, 5]

    async def test_values_that_are_no_numbers_are_kept(self, desk: Desk) -> None:
        values = [math.nan, math.inf, -math.inf, 0.5]
        await desk.put(1, [MetricPoint(n, 0.0, n, {"loss": value}) for n, value in enumerate(values)])
        found = [value for _, value in await desk.series.points(TASK, "loss")]
        assert math.isnan(found[0])
        assert found[1:] == [math.inf, -math.inf, 0.5]
        assert math.isnan((await desk.series.after(TASK, 0)).records[0].values["loss"])

    async def test_a_resumed_attempt_goes_on_where_it_resumed(self, desk: Desk) -> None:
        await desk.log(1, range(1, 151))
        await desk.note(2, resume_step=100)
        assert await desk.steps() == list(range(1, 101))
        await desk.log(2, range(101, 121), offset=0.5)
        assert await desk.steps() == list(range(1, 121))
        assert (await desk.series.points(TASK, "loss"))[99:101] == [(100, 100.0), (101, 101.5)]

    async def test_a_loop_that_counts_from_zero_has_each_step_once(self, desk: Desk) -> None:
        await desk.log(1, range(0, 150))
        await desk.note(2, resume_step=100)
        await desk.log(2, range(100, 110), offset=0.5)
        points = await desk.series.points(TASK, "loss")
        assert [step for step, _ in points] == list(range(0, 110))
        assert points[100] == (100, 100.5)

    async def test_an_attempt_that_begins_anew_hides_all_before_it(self, desk: Desk) -> None:
        await desk.log(1, range(0, 50))
        await desk.note(2, resume_step=0)
        assert await desk.steps() == []
        assert await desk.series.latest(TASK) == {}
        await desk.log(2, range(0, 3), offset=0.5)
        assert await desk.series.points(TASK, "loss") == [(0, 0.5), (1, 1.5), (2, 2.5)]
        assert await desk.tail() == [(2, 0), (2, 1), (2, 2)]

    async def test_the_lowest_resume_of_all_later_attempts_counts(self, desk: Desk) -> None:
        await desk.log(1, range(1, 101))
        await desk.note(2, resume_step=80)
        await desk.log(2, range(81, 121))
        await desk.note(3, resume_step=40)
        await desk.log(3, range(41, 51))
        assert await desk.steps() == list(range(1, 51))
        assert [attempt for attempt, _ in await desk.tail()] == [1] * 40 + [3] * 10

    async def test_what_a_replaced_worker_still_sends_is_counted_and_not_shown(self, desk: Desk) -> None:
        await desk.log(1, range(1, 11))
        await desk.note(2)  # placed elsewhere, not started yet
        assert await desk.log(1, range(11, 21), first=11) == 10
        assert await desk.steps() == list(range(1, 11))
        await desk.note(2, resume_step=0)
        await desk.log(2, [1, 2])
        await desk.log(1, range(21, 31), first=21)
        assert await desk.tail() == [(2, 1), (2, 2)]
        assert [state.late for state in (await desk.series.after(TASK, 0)).attempts] == [20, 0]

    async def test_the_order_in_which_topics_are_read_does_not_matter(self, desk: Desk) -> None:
        await desk.note(2, resume_step=5)
        await desk.log(2, range(6, 11))
        await desk.log(1, range(1, 9))
        assert await desk.steps() == list(range(1, 11))

    async def test_latest_is_the_newest_value_that_counts(self, desk: Desk) -> None:
        points = [
            MetricPoint(n, 0.0, n, {"loss": float(n), **({"val": n / 10} if n % 5 == 0 else {})})
            for n in range(1, 13)
        ]
        await desk.put(1, points)
        await desk.note(2, resume_step=7)
        await desk.log(2, [8])
        assert await desk.series.latest(TASK) == {"loss": 8.0, "val": 0.5}
        assert await desk.series.names(TASK) == ["loss", "val"]

    async def test_a_tail_in_small_pages_has_no_gap_and_no_repeat(self, desk: Desk) -> None:
        both = [MetricPoint(n, 0.0, n, {"loss": 1.0, "lr": 2.0} if n % 3 else {"lr": 2.0}) for n in range(100)]
        await desk.put(1, both[:50])
        await desk.put(1, [MetricPoint(0, 0.0, 7, {"loss": 9.0})], task_id="task-ffffffffffff")
        await desk.put(1, both[50:])
        for limit in (1, 7, 100):
            assert await desk.tail(limit=limit) == [(1, n) for n in range(100)]
        records = (await desk.series.after(TASK, 0)).records
        assert [set(record.values) for record in records[:3]] == [{"lr"}, {"loss", "lr"}, {"loss", "lr"}]
        only = (await desk.series.after(TASK, 0, ["loss"])).records
        assert len(only) == 66
        assert all(set(record.values) == {"loss"} for record in only)

    async def test_a_cursor_passes_what_does_not_match(self, desk: Desk) -> None:
        await desk.log(1, range(10))
        tail = await desk.series.after(TASK, 0, ["accuracy"])
        assert (tail.records, tail.more) == ([], False)
        assert tail.cursor == await desk.series.head(TASK)

    async def test_skip_leaves_the_newest(self, desk: Desk) -> None:
        await desk.log(1, range(1, 101))
        assert await desk.tail(await desk.series.skip(TASK, 10)) == [(1, step) for step in range(91, 101)]
        assert await desk.tail(await desk.series.skip(TASK, 1000)) == [(1, step) for step in range(1, 101)]

    async def test_a_transaction_that_fails_leaves_nothing(self, desk: Desk) -> None:
        async def fail() -> None:
            async with desk.store.transaction() as tx:
                await desk.series.append(tx, TASK, 1, [MetricPoint(0, 0.0, 1, {"loss": 1.0})])
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert not await desk.series.known(TASK)
        assert await desk.log(1, [1], first=0) == 1

    async def test_everything_is_there_after_a_restart(self, desks: Desks) -> None:
        desk = await desks()
        await desk.log(1, [1, 2])
        await desk.store.close()
        again = await desks()
        assert await again.log(1, [1, 2, 3]) == 1
        assert await again.steps() == [1, 2, 3]

    async def test_numbers_grow_over_a_restart(self, desks: Desks) -> None:
        desk = await desks()
        await desk.log(1, [1, 2])
        cursor = await desk.series.head(TASK)
        await desk.store.close()
        again = await desks()
        await again.log(1, [1, 2, 3])
        assert cursor < await again.series.head(TASK)
        assert await again.tail(cursor) == [(1, 3)]

    async def test_any_text_is_a_name(self, desk: Desk) -> None:
        names = ["", "a.b", "$loss", "v0", "_id", 'say "ü"', "a\\b", "a/b", "损失", "x\0y"]
        await desk.put(1, [MetricPoint(n, 0.0, n, {name: float(n)}) for n, name in enumerate(names)])
        assert await desk.series.names(TASK) == sorted(names)
        assert await desk.series.latest(TASK) == {name: float(n) for n, name in enumerate(names)}
        for n, name in enumerate(names):
            assert await desk.series.points(TASK, name) == [(n, float(n))]
            (record,) = (await desk.series.after(TASK, 0, [name])).records
            assert record.values == {name: float(n)}

    async def test_numbers_come_back_bit_for_bit(self, desk: Desk) -> None:
        values = [5e-324, 1.7976931348623157e308, 0.1 + 0.2, -1 / 3, 2.0**53 + 2]
        await desk.put(1, [MetricPoint(n, 1e9 + n / 3, -(2**62) + n, {"loss": v}) for n, v in enumerate(values)])
        assert await desk.series.points(TASK, "loss") == [(-(2**62) + n, value) for n, value in enumerate(values)]
        found = (await desk.series.after(TASK, 0)).records
        assert [record.time for record in found] == [1e9 + n / 3 for n in range(len(values))]

    async def test_what_one_transaction_wrote_its_next_append_sees(self, desk: Desk) -> None:
        async with desk.store.transaction() as tx:
            for seq in (1, 2, 2, 3):
                await desk.series.append(tx, TASK, 1, [MetricPoint(seq, 0.0, seq, {"loss": float(seq)})])
            await desk.series.note_attempt(tx, TASK, 2, 2)
            await desk.series.append(tx, TASK, 2, [MetricPoint(1, 0.0, 3, {"loss": 9.0})])
        assert await desk.series.points(TASK, "loss") == [(1, 1.0), (2, 2.0), (3, 9.0)]

    async def test_attempts_that_take_turns_keep_their_order(self, desk: Desk) -> None:
        await desk.note(2, resume_step=1000)
        for turn in range(40):
            await desk.log(1, [2 * turn, 2 * turn + 1], first=1 + 2 * turn)
            await desk.log(2, [1001 + turn], first=turn)
        expected = [entry for n in range(40) for entry in [(1, 2 * n), (1, 2 * n + 1), (2, 1001 + n)]]
        for limit in (3, 500):
            assert await desk.tail(limit=limit) == expected
        assert len(await desk.steps()) == 120

    async def test_a_seldom_name_is_found_behind_a_long_history(self, desk: Desk) -> None:
        points = [
            MetricPoint(n, 0.0, n, {"loss": float(n), **({"rare": -1.0} if n == 3 else {})}) for n in range(5000)
        ]
        await desk.put(1, points)
        await desk.note(2, resume_step=4000)
        assert await desk.series.latest(TASK) == {"loss": 4000.0, "rare": -1.0}
        assert await desk.series.points(TASK, "rare") == [(3, -1.0)]
        only: list[int] = []
        cursor, more = 0, True
        while more:
            tail = await desk.series.after(TASK, cursor, ["rare"])
            only += [record.step for record in tail.records]
            cursor, more = tail.cursor, tail.more
        assert (only, cursor) == ([3], await desk.series.head(TASK))

    async def test_a_transaction_of_another_store_is_refused(self, desk: Desk) -> None:
        with pytest.raises(TypeError, match="share the transactions"):
            await desk.series.note_attempt(object(), TASK, 1)  # type: ignore[arg-type]

    async def test_a_history_longer_than_a_page_is_whole_and_quick(self, desk: Desk) -> None:
        count = LONG
        await desk.log(1, range(count))
        begun = time.perf_counter()
        assert await desk.steps() == list(range(count))
        assert time.perf_counter() - begun < 1
