"""The document port on MongoDB: the common suite, on whichever server there is."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from uuid import uuid4

import pytest
from pymongo import InsertOne

from services.task.handlers import change_task, create_task
from services.task.store import COLLECTIONS as COLLECTIONS_OF_TASKS
from tests.contract.document_store import COLLECTIONS, DocumentStoreContract
from tests.contract.lease_store import take
from tests.mongo_server import MongoServer
from tests.runtime_kit import FastClock
from trainwright.contracts.errors import InvalidInput, StoreBusy
from trainwright.contracts.task_config import ChangeTask, TaskConfig
from trainwright.storage.document import Collection
from trainwright.storage.meeting import MEETINGS, meet
from trainwright.storage.mongo import MongoStore


@pytest.fixture
def database() -> str:
    return f"test_{uuid4().hex[:12]}"


@pytest.fixture
async def store(mongo: MongoServer, database: str) -> AsyncIterator[MongoStore]:
    found = MongoStore(mongo.url, database, COLLECTIONS)
    await found.open()
    yield found
    await found.close()


@pytest.fixture
async def other(store: MongoStore, mongo: MongoServer, database: str) -> AsyncIterator[MongoStore]:
    found = MongoStore(mongo.url, database, COLLECTIONS)
    await found.open()
    yield found
    await found.close()


class TestMongoStore(DocumentStoreContract):
    """Everything that the port promises."""


@pytest.fixture(autouse=True)
def isolation(request: pytest.FixtureRequest) -> None:
    """Skip on the stand-in what needs transactions to isolate."""
    if request.node.originalname == "test_of_a_take_over_and_what_is_being_written_one_fails":
        request.getfixturevalue("isolating_mongo")


async def test_a_renewal_waits_for_nobody_who_is_not_under_the_lease(store: MongoStore) -> None:
    """A thousand requests that wait for their turn would be a take-over."""
    epoch = await take(store, "a")
    async with store.transaction() as tx:
        await tx.put("plain", "x", {})
        assert await asyncio.wait_for(store.renew_lease(epoch), 20)


async def test_an_identifier_that_another_one_has_made_is_worth_another_try(
    store: MongoStore, other: MongoStore
) -> None:
    """Two processes number their outbox rows by their clocks, and a byte that chance gives."""
    async with store.transaction() as tx:
        tx.write("plain", [InsertOne({"_id": "number"})])
    with pytest.raises(StoreBusy):
        async with other.transaction() as tx:
            tx.write("plain", [InsertOne({"_id": "number"})])


async def test_of_two_that_meet_one_is_refused_and_sees_the_other(isolating_mongo: MongoServer) -> None:
    name, documents = f"test_{uuid4().hex[:12]}", (Collection("plain"), MEETINGS)
    one, two = (MongoStore(isolating_mongo.url, name, documents) for _ in range(2))
    await one.open()
    await two.open()

    async def overtaken() -> None:
        async with one.transaction() as first:
            await meet(first, "subject")
            assert await first.get("plain", "b") is None
            async with two.transaction() as second:
                await meet(second, "subject")
                await second.put("plain", "b", {})
            await first.put("plain", "a", {})

    with pytest.raises(StoreBusy):
        await overtaken()
    async with one.transaction() as again:
        await meet(again, "subject")
        assert await again.get("plain", "b") == {}
    await one.close()
    await two.close()


async def test_a_circle_is_not_closed_from_two_sides(isolating_mongo: MongoServer) -> None:
    """Neither of the two tasks that are changed is one that the other change looks at or writes."""
    name, clock = f"test_{uuid4().hex[:12]}", FastClock()
    one, two = (MongoStore(isolating_mongo.url, name, COLLECTIONS_OF_TASKS) for _ in range(2))
    await one.open()
    await two.open()

    async def task(*depends_on: str) -> str:
        async with one.transaction() as tx:
            config = TaskConfig(recipe="script")
            made, _ = await create_task(
                config, run=False, actor="a", tx=tx, clock=clock, depends_on=list(depends_on)
            )
        return made.task_id

    a, c = await task(), await task()
    b, d = await task(c), await task(a)
    change = partial(change_task, actor="a", clock=clock)
    async with one.transaction() as first:
        await change(a, ChangeTask(depends_on=[b]), tx=first)
        with pytest.raises(StoreBusy):
            async with two.transaction() as second:
                await change(c, ChangeTask(depends_on=[d]), tx=second)
    with pytest.raises(InvalidInput, match="would wait for each other"):
        async with two.transaction() as again:
            await change(c, ChangeTask(depends_on=[d]), tx=again)
    await one.close()
    await two.close()
