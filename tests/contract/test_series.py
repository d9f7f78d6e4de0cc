"""The series port on each engine: the common suite."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.series_port import LONG, TASK, Desk, Desks, SeriesContract
from tests.mongo_server import MongoServer
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.metric import MetricPoint
from trainwright.storage import chunks, mongo_series, sqlite_series
from trainwright.storage.mongo import MongoStore
from trainwright.storage.mongo_series import MongoSeries
from trainwright.storage.sqlite import SqliteStore
from trainwright.storage.sqlite_series import SqliteSeries


class TestSqliteSeries(SeriesContract):
    """Everything that the port promises."""

    @pytest.fixture
    async def desks(self, tmp_path: Path) -> AsyncIterator[Desks]:
        opened: list[SqliteStore] = []

        async def desk() -> Desk:
            opened.append(SqliteStore(tmp_path / "monitor.db", (), sqlite_series.SCHEMA))
            await opened[-1].open()
            return Desk(opened[-1], SqliteSeries(opened[-1]))

        yield desk
        for store in opened:
            await store.close()

    def test_the_long_history_is_longer_than_a_page(self) -> None:
        assert LONG > 2 * sqlite_series.PAGE


class TestMongoSeries(SeriesContract):
    """Everything that the port promises, and what two replicas may do to each other."""

    @pytest.fixture
    async def desks(self, mongo: MongoServer) -> AsyncIterator[Desks]:
        opened: list[MongoStore] = []
        name = f"test_{uuid4().hex[:12]}"

        async def desk() -> Desk:
            opened.append(MongoStore(mongo.url, name, mongo_series.COLLECTIONS))
            await opened[-1].open()
            return Desk(opened[-1], MongoSeries(opened[-1]))

        yield desk
        for store in opened:
            await store.close()

    async def test_replicas_that_take_turns_share_one_sequence(self, desks: Desks) -> None:
        one, other = await desks(), await desks()
        for n in range(20):
            await (one if n % 2 else other).log(1, [n], first=n)
        assert await one.tail(limit=7) == await other.tail() == [(1, n) for n in range(20)]

    async def test_replicas_that_write_at_once_do_not_both_commit(
        self, isolating_mongo: MongoServer, desks: Desks
    ) -> None:
        one, other = await desks(), await desks()
        await one.log(1, [0], first=0)

        async def lose() -> None:
            async with one.store.transaction() as tx:
                await one.series.append(tx, TASK, 1, [MetricPoint(1, 0.0, 1, {"loss": 1.0})])
                await other.log(1, [1], first=1)

        with pytest.raises(StoreUnavailable):
            await lose()
        assert await one.log(1, [1], first=1) == 0
        assert await one.tail() == [(1, 0), (1, 1)]

    async def test_what_is_kept_of_many_small_appends_is_few_documents_of_bounded_size(self, desk: Desk) -> None:
        for n in range(0, 600, 3):
            await desk.log(1, range(n, n + 3), first=n)
        assert isinstance(desk.store, MongoStore)
        with desk.store.reading() as reader:
            kept = await reader.scan(mongo_series.CHUNKS, {}, 1000)
        sizes = [sum(len(value) for value in chunk.values() if isinstance(value, bytes)) for chunk in kept]
        assert sum(sizes) == 600 * 24
        assert len(sizes) == 2
        assert max(sizes) < chunks.FULL + 24 * 3

    async def test_a_history_of_more_than_a_page_of_chunks_is_whole(self, desk: Desk) -> None:
        count = (mongo_series.PAGE + 1) * chunks.FULL // 24
        await desk.log(1, range(count))
        assert await desk.steps() == list(range(count))
        await desk.note(2, resume_step=7)
        assert await desk.series.latest(TASK) == {"loss": 7.0}
