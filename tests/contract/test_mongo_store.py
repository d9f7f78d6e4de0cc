"""The document port on MongoDB: the common suite, on whichever server there is."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.contract.document_store import COLLECTIONS, DocumentStoreContract
from tests.mongo_server import MongoServer
from trainwright.contracts.errors import StoreBusy
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
