"""What a server that says it is a MongoDB has to do, with the driver alone: what our engine relies on, no more.

Two sessions meet, by hand, in every way in which two replicas of a service may. Each way is one line of MongoDB's
documentation: a transaction sees what was committed before its first read, and itself; of two that write one
document the second is refused at once, labelled as worth another try; so is one that writes what was changed since
its first read. It is no more than that: two that read the same and write different documents are both committed
(``storage/meeting.py``).
"""

import threading
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from tests.mongo_server import MongoServer

MAJORITY = WriteConcern("majority", j=True)
Things = Collection[dict[str, Any]]


@pytest.fixture
def things(isolating_mongo: MongoServer) -> Iterator[Things]:
    """Give a collection with one document and an index of unique values.

    The stand-in does 2 of these 14 things, and its open transactions would stay with the tests after these.
    """
    with MongoClient[dict[str, Any]](isolating_mongo.url) as client:
        database = client.get_database(f"test_{uuid4().hex[:12]}", read_concern=ReadConcern("majority"))
        found = database.get_collection("things", write_concern=MAJORITY)
        found.create_index("mark", unique=True, sparse=True)
        found.insert_one({"_id": "a", "n": 0})
        yield found
        client.drop_database(database)


@pytest.fixture
def one(things: Things) -> Iterator[ClientSession]:
    with things.database.client.start_session() as session:
        session.start_transaction(ReadConcern("snapshot"), MAJORITY)
        yield session


@pytest.fixture
def two(things: Things) -> Iterator[ClientSession]:
    with things.database.client.start_session() as session:
        session.start_transaction(ReadConcern("snapshot"), MAJORITY)
        yield session


def add(things: Things, session: ClientSession | None = None, id: str = "a") -> None:
    """Count a document up, or make it."""
    things.update_one({"_id": id}, {"$inc": {"n": 1}}, upsert=True, session=session)


def number(things: Things, session: ClientSession | None = None, id: str = "a") -> int | None:
    found = things.find_one({"_id": id}, session=session)
    return None if found is None else found["n"]


def is_refused(refused: PyMongoError) -> bool:
    """Return whether an error says that somebody else wrote the same."""
    return refused.has_error_label("TransientTransactionError") or getattr(refused, "code", None) == 11000


def test_a_transaction_sees_itself_and_what_was_before_it(things: Things, one: ClientSession) -> None:
    assert number(things, one) == 0
    add(things)
    add(things, id="b")
    assert (number(things, one), things.count_documents({}, session=one)) == (0, 1)
    things.insert_one({"_id": "c", "n": 5}, session=one)
    assert (number(things, one, "c"), things.count_documents({"n": 5}, session=one)) == (5, 1)


def test_nobody_sees_what_is_not_committed_and_all_of_it_after(things: Things, one: ClientSession) -> None:
    add(things, one)
    add(things, one, "b")
    assert (number(things), number(things, id="b")) == (0, None)
    one.commit_transaction()
    assert (number(things), number(things, id="b")) == (1, 1)


def test_what_is_given_up_leaves_nothing(things: Things, one: ClientSession) -> None:
    add(things, one)
    things.delete_one({"_id": "a"}, session=one)
    add(things, one, "b")
    one.abort_transaction()
    assert (number(things), number(things, id="b")) == (0, None)


@pytest.mark.parametrize("id", ["a", "missing"])
def test_of_two_that_write_one_document_the_second_is_refused_at_once(
    things: Things, one: ClientSession, two: ClientSession, id: str
) -> None:
    add(things, one, id)
    with pytest.raises(PyMongoError) as refused:
        add(things, two, id)
    assert is_refused(refused.value)
    one.commit_transaction()
    assert number(things, id=id) == 1
    with pytest.raises(OperationFailure):
        two.commit_transaction()


@pytest.mark.parametrize("id", ["a", "missing"])
@pytest.mark.parametrize("how", ["in a transaction", "beside any", "removed"])
def test_who_writes_what_was_changed_since_it_looked_is_refused(
    things: Things, one: ClientSession, two: ClientSession, id: str, how: str
) -> None:
    number(things, two, "another")
    if how == "in a transaction":
        add(things, one, id)
        one.commit_transaction()
    else:
        add(things, id=id)
    if how == "removed":
        things.delete_one({"_id": id})
    with pytest.raises(PyMongoError) as refused:
        things.replace_one({"_id": id}, {"n": 7}, upsert=True, session=two)
    assert is_refused(refused.value)
    assert number(things, id=id) == (None if how == "removed" else 1)


def test_one_value_of_a_unique_index_is_given_once(things: Things, one: ClientSession, two: ClientSession) -> None:
    number(things, two)
    things.insert_one({"_id": "b", "mark": 1}, session=one)
    one.commit_transaction()
    with pytest.raises(PyMongoError) as refused:
        things.insert_one({"_id": "c", "mark": 1}, session=two)
    assert is_refused(refused.value)


def test_who_writes_beside_transactions_waits_for_one_that_has_written(things: Things, one: ClientSession) -> None:
    """A take-over of a lease waits for what is written under the lease, and sees it."""
    add(things, one)
    beside = threading.Thread(target=add, args=[things])
    beside.start()
    beside.join(timeout=0.3)
    assert beside.is_alive()
    one.commit_transaction()
    beside.join(timeout=20)
    assert number(things) == 2


def test_a_commit_may_be_said_twice_and_not_after_the_end(
    things: Things, one: ClientSession, two: ClientSession
) -> None:
    add(things, one)
    one.commit_transaction()
    one.commit_transaction()
    assert number(things) == 1
    add(things, two)
    things.database.client.admin.command("killSessions", [two.session_id])
    with pytest.raises(OperationFailure) as over:
        two.commit_transaction()
    assert not over.value.has_error_label("UnknownTransactionCommitResult")
    assert number(things) == 1
