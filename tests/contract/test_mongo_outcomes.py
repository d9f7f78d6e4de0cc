"""MongoDB behind a network that breaks: a commit whose answer is lost is found out, what is unknown is said."""

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pymongo.errors import DocumentTooLarge

from tests.contract.document_store import COLLECTIONS, put
from tests.contract.mongo_proxy import AFTER, BEFORE, LOST, MongoProxy, mongo_proxy
from tests.contract.outbox_store import row
from tests.harness import eventually
from tests.mongo_server import MongoServer
from trainwright.contracts.errors import StoreBusy, StoreUnavailable
from trainwright.storage.document import DocumentStore
from trainwright.storage.mongo import MongoStore


@pytest.fixture
async def proxy(mongo: MongoServer) -> AsyncIterator[MongoProxy]:
    async with mongo_proxy(mongo.url) as found:
        yield found


@pytest.fixture
async def store(proxy: MongoProxy) -> AsyncIterator[MongoStore]:
    """Give a store that sees its server through the proxy."""
    found = MongoStore(proxy.url, f"test_{uuid4().hex[:12]}", COLLECTIONS)
    await found.open()
    yield found
    await found.close()


async def add_one(store: DocumentStore) -> None:
    """Count up by one, with an event; twice would show."""
    async with store.transaction() as tx:
        found = await tx.get("things", "counter") or {"n": 0}
        await tx.put("things", "counter", {"n": found["n"] + 1})
        await tx.add_outbox([row("counted")])


async def counted(store: DocumentStore) -> tuple[int, int]:
    found = await store.get("things", "counter") or {"n": 0}
    return found["n"], await store.outbox_depth()


@pytest.mark.parametrize("cuts", [1, 4])
async def test_a_commit_that_was_applied_while_its_answer_was_lost_is_done_once(
    store: MongoStore, proxy: MongoProxy, cuts: int
) -> None:
    committed, before = store.next_commit(), proxy.commits
    proxy.plan = [AFTER] * cuts
    await add_one(store)
    proxy.heal()
    assert proxy.commits - before >= min(cuts, 2), "the proxy did cut"
    assert await counted(store) == (1, 1)
    await asyncio.wait_for(committed, 20)
    await add_one(store)
    assert await counted(store) == (2, 2)


@pytest.mark.parametrize("plan", [[LOST], [LOST, BEFORE, AFTER]])
async def test_a_commit_that_the_server_lost_is_not_done_and_that_is_told(
    store: MongoStore, proxy: MongoProxy, plan: list[str]
) -> None:
    committed = store.next_commit()
    proxy.plan = plan
    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await add_one(store)
    proxy.heal()
    assert await counted(store) == (0, 0)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(committed, 0.1)
    await add_one(store)
    assert await counted(store) == (1, 1)


@pytest.mark.parametrize("plan", [[BEFORE], [BEFORE, AFTER], [AFTER, BEFORE, LOST]])
async def test_whatever_is_cut_it_was_done_if_and_only_if_nothing_was_raised(
    store: MongoStore, proxy: MongoProxy, plan: list[str]
) -> None:
    done = 0
    proxy.plan = plan
    try:
        await add_one(store)
        done += 1
    except StoreUnavailable:
        pass
    proxy.heal()
    assert await counted(store) == (done, done)


async def test_a_server_that_is_gone_after_a_commit_is_asked_when_it_is_back(
    store: MongoStore, proxy: MongoProxy
) -> None:
    proxy.plan, proxy.stays_down = [AFTER], True
    writing = asyncio.create_task(add_one(store))
    await proxy.has_cut.wait()
    await asyncio.sleep(2)
    assert not writing.done()
    proxy.heal()
    await writing
    assert await counted(store) == (1, 1)


async def test_what_cannot_be_found_out_is_said_to_be_unknown(store: MongoStore, proxy: MongoProxy) -> None:
    proxy.plan, proxy.stays_down = [AFTER], True
    with pytest.raises(StoreUnavailable, match="whether that was written is not known"):
        await add_one(store)
    proxy.heal()
    assert await counted(store) == (1, 1)


async def test_who_is_cancelled_while_a_commit_is_found_out_waits_for_its_end(
    store: MongoStore, proxy: MongoProxy
) -> None:
    proxy.plan = [AFTER] * 4
    writing = asyncio.create_task(add_one(store))
    await proxy.has_cut.wait()
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0.05)
    next_one = asyncio.create_task(add_one(store))
    with pytest.raises(asyncio.CancelledError):
        await writing
    await next_one
    assert await counted(store) == (2, 2)


async def test_a_server_that_takes_everything_and_answers_nothing_is_given_up(
    store: MongoStore, proxy: MongoProxy
) -> None:
    await add_one(store)
    proxy.silent = True
    with pytest.raises(StoreUnavailable):
        await store.get("things", "counter")
    with pytest.raises(StoreUnavailable) as away:
        await add_one(store)
    assert not isinstance(away.value, StoreBusy), "nobody else was there: a person is not kept waiting for tries"
    proxy.heal()

    async def is_back() -> bool:
        try:
            await add_one(store)
        except StoreUnavailable:
            return False
        return True

    await eventually(is_back, within=20, what="the server to be found again")
    assert await counted(store) == (2, 2)


async def test_a_server_that_did_not_answer_at_the_start_is_opened_when_it_does(proxy: MongoProxy) -> None:
    store = MongoStore(proxy.url, f"test_{uuid4().hex[:12]}", COLLECTIONS)
    proxy.silent = True
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await counted(store)
    proxy.heal()
    await store.open()
    await add_one(store)
    assert await counted(store) == (1, 1)
    await store.close()


async def test_what_the_server_can_never_take_is_not_its_absence(isolating_mongo: MongoServer) -> None:
    """Waiting would not mend it: a consumer must put the record aside instead of standing still."""
    store = MongoStore(isolating_mongo.url, f"test_{uuid4().hex[:12]}", COLLECTIONS)
    await store.open()
    with pytest.raises(DocumentTooLarge):
        await put(store, "large", {"text": "x" * (17 << 20)})
    await put(store, "small", {"text": "x"})
    await store.close()


async def test_a_transaction_that_only_read_is_committed_and_wakes_nobody(
    store: MongoStore, proxy: MongoProxy
) -> None:
    """With its commit the server vouches for what was read; a consumer passes over a record because of that."""
    committed, before = store.next_commit(), proxy.commits
    async with store.transaction() as tx:
        assert await tx.get("things", "counter") is None
    assert proxy.commits == before + 1
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(committed, 0.1)
    proxy.plan = [LOST]
    with pytest.raises(StoreUnavailable):
        async with store.transaction() as tx:
            await tx.get("things", "counter")
