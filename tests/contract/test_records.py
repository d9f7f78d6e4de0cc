"""The records port on each engine: the common suite."""

from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.contract.records_port import INFO, LONG, TASK, Desk, Desks, RecordsContract, record
from tests.mongo_server import MongoServer
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.log import LogStream
from trainwright.storage import mongo_records, sqlite_records
from trainwright.storage.mongo import MongoStore
from trainwright.storage.mongo_records import MongoRecords
from trainwright.storage.sqlite import SqliteStore
from trainwright.storage.sqlite_records import SqliteRecords


class TestSqliteRecords(RecordsContract):
    """Everything that the port promises."""

    @pytest.fixture
    async def desks(self, tmp_path: Path) -> AsyncIterator[Desks]:
        opened: list[SqliteStore] = []

        async def desk() -> Desk:
            opened.append(SqliteStore(tmp_path / "log.db", (), sqlite_records.SCHEMA))
            await opened[-1].open()
            return Desk(opened[-1], SqliteRecords(opened[-1]))

        yield desk
        for store in opened:
            await store.close()

    def test_the_long_search_is_longer_than_a_look(self) -> None:
        assert LONG > sqlite_records.BLOCKS << sqlite_records.BLOCK_BITS


class TestMongoRecords(RecordsContract):
    """Everything that the port promises, and what two replicas may do to each other."""

    @pytest.fixture
    async def desks(self, mongo: MongoServer) -> AsyncIterator[Desks]:
        opened: list[MongoStore] = []
        name = f"test_{uuid4().hex[:12]}"

        async def desk() -> Desk:
            opened.append(MongoStore(mongo.url, name, mongo_records.COLLECTIONS))
            await opened[-1].open()
            return Desk(opened[-1], MongoRecords(opened[-1]))

        yield desk
        for store in opened:
            await store.close()

    @pytest.fixture
    def quick(self, mongo: MongoServer) -> float:
        return 0.1 if mongo.isolates else 2  # the stand-in parses every block that it looks at

    async def test_replicas_that_write_at_once_do_not_both_commit(
        self, isolating_mongo: MongoServer, desks: Desks
    ) -> None:
        one, other = await desks(), await desks()
        await one.put([record(0)])

        async def lose() -> None:
            async with one.store.transaction() as tx:
                await one.records.append(tx, TASK, 1, LogStream.STDOUT, [record(1)])
                await other.put([record(1)])

        with pytest.raises(StoreUnavailable):
            await lose()
        assert await one.put([record(1)]) == 0
        assert await one.find() == ["line 0", "line 1"]

    async def test_what_is_kept_of_many_small_appends_is_few_documents_of_bounded_size(self, desk: Desk) -> None:
        for n in range(200):
            await desk.put([record(n, "x" * 200, INFO)])
        assert isinstance(desk.store, MongoStore)
        with desk.store.reading() as reader:
            kept = await reader.scan(mongo_records.BLOCKS, {}, 1000)
        assert [len(block["messages"]) for block in kept] == [67, 67, 66]
        assert len(await desk.find()) == 200
