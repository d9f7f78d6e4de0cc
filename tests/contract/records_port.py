"""What every engine of the records port must do. An engine inherits the class and gives its ``desks`` fixture."""

import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from trainwright.contracts.errors import InvalidInput
from trainwright.contracts.log import LogLevel, LogRecord, LogStream
from trainwright.storage.document import DocumentStore
from trainwright.storage.records import Records, Search

TASK = "task-0123456789ab"
LONG = 35 * 4096 + 7
"""Records that no engine looks through at once."""
NOON = datetime(2025, 6, 1, 12, tzinfo=UTC)
INFO, WARNING, ERROR = LogLevel.INFO, LogLevel.WARNING, LogLevel.ERROR


def record(seq: int, message: str = "", level: LogLevel = INFO, second: float | None = None) -> LogRecord:
    moment = NOON + timedelta(seconds=seq if second is None else second)
    return LogRecord(seq=seq, time=moment, level=level, message=message or f"line {seq}")


class Desk:
    """A store and its records; every write is a transaction of its own."""

    def __init__(self, store: DocumentStore, records: Records) -> None:
        self.store = store
        self.records = records

    async def put(
        self,
        records: Sequence[LogRecord],
        *,
        attempt: int = 1,
        stream: LogStream = LogStream.STDOUT,
        task_id: str = TASK,
        rank: int | None = None,
    ) -> int:
        async with self.store.transaction() as tx:
            return await self.records.append(tx, task_id, attempt, stream, records, rank)

    async def lost(self, attempt: int, second: float, rank: int | None = None) -> None:
        async with self.store.transaction() as tx:
            await self.records.note_lost(tx, TASK, attempt, NOON + timedelta(seconds=second), rank)

    async def find(self, limit: int = 1000, task_id: str = TASK, **search: Any) -> list[str]:
        found = await self.records.find(task_id, Search(**search), limit=limit)
        return [entry.message for entry in found.entries]


Desks = Callable[[], Awaitable[Desk]]
"""Opens the same store again, as another process would."""


class RecordsContract:
    """Everything that the port promises."""

    @pytest.fixture
    async def desk(self, desks: Desks) -> Desk:
        return await desks()

    @pytest.fixture
    def quick(self) -> float:
        """Give the seconds within which the end of a long log is found."""
        return 0.1

    async def test_records_come_back_in_the_order_of_arrival(self, desk: Desk) -> None:
        await desk.put([record(0, "second", second=2), record(7, "first", second=1)])
        await desk.put([record(0, "other stream")], stream=LogStream.STDERR)
        await desk.put([record(0, "other task")], task_id="task-ffffffffffff")
        assert await desk.find() == ["second", "first", "other stream"]
        (entry, *_) = (await desk.records.find(TASK, Search())).entries
        assert (entry.time, entry.level) == (NOON + timedelta(seconds=2), INFO)
        assert entry.extra == {"attempt": 1, "stream": "stdout"}

    async def test_repeats_are_dropped_by_number_within_their_stream(self, desk: Desk) -> None:
        batch = [record(0), record(10), record(20)]
        assert await desk.put(batch) == 3
        assert await desk.put(batch) == 0
        assert await desk.put([*batch, record(30)]) == 1
        assert await desk.put(batch, stream=LogStream.STDERR) == 3
        assert await desk.put(batch, attempt=2) == 3
        assert len(await desk.find()) == 10

    async def test_a_level_finds_itself_and_graver_ones(self, desk: Desk) -> None:
        await desk.put([record(n, level.value, level) for n, level in enumerate(LogLevel)])
        assert await desk.find(level=LogLevel.DEBUG) == ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
        assert await desk.find(level=ERROR) == ["ERROR", "CRITICAL"]

    async def test_both_ends_of_a_time_range_belong_to_it(self, desk: Desk) -> None:
        await desk.put([record(n) for n in range(10)])
        found = await desk.find(start=NOON + timedelta(seconds=3), end=NOON + timedelta(seconds=5))
        assert found == ["line 3", "line 4", "line 5"]

    @pytest.mark.parametrize(
        ("keyword", "found"),
        [
            ("LOSS", ["loss 50%", "Loss_a", 'loss "NaN"']),
            ("50%", ["loss 50%"]),
            ("s_a", ["Loss_a"]),
            ("%", ["loss 50%"]),
            ("_", ["Loss_a"]),
            ("c:\\n", ["C:\\new"]),
            ("\\", ["C:\\new"]),
            ('"nan"', ['loss "NaN"']),
            ("n\n", ["two\nlines: in\none"]),
            ("ÜBER", ["über alles"]),
            ("损失", ["损失 0.5"]),
            ("nothing", []),
        ],
    )
    async def test_a_keyword_is_text_whatever_its_case(self, desk: Desk, keyword: str, found: list[str]) -> None:
        messages = ["loss 50%", "Loss_a", "C:\\new", "über alles", "损失 0.5", 'loss "NaN"', "two\nlines: in\none"]
        await desk.put([record(n, message) for n, message in enumerate(messages)])
        assert await desk.find(keyword=keyword) == found

    async def test_pages_follow_each_other_and_what_comes_later(self, desk: Desk) -> None:
        await desk.put([record(n) for n in range(25)])
        seen: list[str] = []
        cursor = 0
        for size in (10, 10, 5, 0):
            page = await desk.records.find(TASK, Search(), cursor=cursor, limit=10)
            assert len(page.entries) == size
            seen += [entry.message for entry in page.entries]
            cursor = page.cursor
        await desk.put([record(n) for n in range(25, 30)])
        page = await desk.records.find(TASK, Search(), cursor=cursor, limit=10)
        seen += [entry.message for entry in page.entries]
        assert seen == [f"line {n}" for n in range(30)]

    async def test_a_cursor_passes_what_does_not_match(self, desk: Desk) -> None:
        await desk.put([record(n) for n in range(25)])
        page = await desk.records.find(TASK, Search(level=ERROR))
        assert (page.entries, page.cursor) == ([], 25)
        await desk.put([record(25, "broken", ERROR)])
        page = await desk.records.find(TASK, Search(level=ERROR), cursor=page.cursor)
        assert [entry.message for entry in page.entries] == ["broken"]

    async def test_a_cursor_beyond_the_end_is_refused(self, desk: Desk) -> None:
        with pytest.raises(InvalidInput):
            await desk.records.find(TASK, Search(), cursor=1)

    async def test_a_lost_attempt_keeps_what_it_wrote_before_the_loss(self, desk: Desk) -> None:
        await desk.put([record(1)])
        await desk.lost(1, second=5)
        await desk.put([record(0, "new attempt", second=6)], attempt=2)
        assert await desk.put([record(4), record(6), record(7)]) == 1
        assert await desk.find() == ["line 1", "new attempt", "line 4"]
        assert await desk.records.dropped(TASK) == 2
        assert await desk.put([record(7)]) == 0
        assert await desk.records.dropped(TASK) == 2

    async def test_each_rank_of_several_is_numbered_found_and_lost_by_itself(self, desk: Desk) -> None:
        await desk.put([record(0, "alone")])
        for rank in (0, 1, 11):
            assert await desk.put([record(0, f"of {rank}"), record(5, f"of {rank}")], attempt=2, rank=rank) == 2
            assert await desk.put([record(5)], attempt=2, rank=rank) == 0
        assert await desk.put([record(0, "warns")], attempt=2, rank=1, stream=LogStream.STDERR) == 1
        assert await desk.find(rank=0) == ["alone", "of 0", "of 0"]
        assert await desk.find(rank=1) == ["of 1", "of 1", "warns"]
        assert await desk.find(rank=11, start=NOON + timedelta(seconds=5)) == ["of 11"]
        assert await desk.find(rank=2) == []
        entries = (await desk.records.find(TASK, Search(rank=1))).entries
        assert entries[-1].extra == {"attempt": 2, "stream": "stderr", "rank": 1}
        await desk.lost(2, second=6, rank=1)
        assert await desk.put([record(6), record(7)], attempt=2, rank=1) == 1
        assert await desk.put([record(7)], attempt=2, rank=11) == 1
        await desk.lost(2, second=5)
        assert await desk.put([record(6)], attempt=2, rank=0) == 0
        assert await desk.records.dropped(TASK) == 2

    async def test_everything_is_there_after_a_restart(self, desks: Desks) -> None:
        desk = await desks()
        await desk.put([record(0), record(1)])
        await desk.store.close()
        again = await desks()
        assert await again.put([record(1), record(2)]) == 1
        assert await again.find() == ["line 0", "line 1", "line 2"]
        assert (await again.records.find(TASK, Search())).cursor == 3

    async def test_what_one_transaction_wrote_its_next_append_sees(self, desk: Desk) -> None:
        async with desk.store.transaction() as tx:
            for seq in (0, 1, 1, 2):
                await desk.records.append(tx, TASK, 1, LogStream.STDOUT, [record(seq)])
        assert await desk.find() == ["line 0", "line 1", "line 2"]

    async def test_a_transaction_that_fails_leaves_nothing(self, desk: Desk) -> None:
        async def fail() -> None:
            async with desk.store.transaction() as tx:
                await desk.records.append(tx, TASK, 1, LogStream.STDOUT, [record(0)])
                raise RuntimeError

        with pytest.raises(RuntimeError):
            await fail()
        assert not await desk.records.known(TASK)
        assert await desk.put([record(0)]) == 1
        assert await desk.records.known(TASK)

    async def test_what_a_record_carries_comes_back(self, desk: Desk) -> None:
        extra = {"a.b": {"$c": [1, None, 1.5, "ü"]}, "big": 2**60}
        plain = record(0, "line\nwith \0 and 日本")
        await desk.put([plain.model_copy(update={"extra": extra})])
        (entry,) = (await desk.records.find(TASK, Search())).entries
        assert entry.message == plain.message
        assert entry.extra == {**extra, "attempt": 1, "stream": "stdout"}

    async def test_a_long_message_is_kept_whole(self, desk: Desk) -> None:
        trace = "".join(f"  line {n}\n" for n in range(20_000))
        await desk.put([record(0), record(1, trace, ERROR), record(2)])
        assert await desk.find() == ["line 0", trace, "line 2"]
        assert await desk.find(keyword="LINE 19999") == [trace]

    async def test_a_transaction_of_another_store_is_refused(self, desk: Desk) -> None:
        with pytest.raises(TypeError, match="share the transactions"):
            await desk.records.note_lost(object(), TASK, 1, NOON)  # type: ignore[arg-type]

    async def test_a_search_over_many_blocks_misses_nothing(self, desk: Desk, quick: float) -> None:
        block, count = 4096, LONG
        rare = {5, 511, 512, block - 1, block, 20 * block + 1, 33 * block, count - 1}
        batch = [record(n, "rare" if n in rare else "x", ERROR if n in rare else INFO) for n in range(count)]
        for start in range(0, count, 10_000):
            await desk.put(batch[start : start + 10_000])
        for search in (Search(level=ERROR), Search(keyword="RARE"), Search(level=WARNING, keyword="rare")):
            found, cursor = [], 0
            while page := await desk.records.find(TASK, search, cursor=cursor, limit=4):
                found += [entry.time for entry in page.entries]
                cursor = page.cursor
                if not page.entries:
                    break
            assert found == [NOON + timedelta(seconds=n) for n in sorted(rare)]
            assert cursor == count
        late = NOON + timedelta(seconds=count - 3)
        begun = time.perf_counter()
        assert await desk.find(start=late) == ["x", "x", "rare"]
        assert time.perf_counter() - begun < quick
