"""What every engine of the document port must do. An engine inherits the class and gives its ``store`` fixture,
and ``other``: the same place, as another process has it open.

Not here: what only one engine can suffer (its process killed, its disk full); that is beside the engine.
"""

import asyncio
from typing import Any

import pytest

from tests.contract.lease_store import Leases
from tests.contract.outbox_store import Outbox, Remembering, Repeats, row
from trainwright.contracts.errors import InvalidInput, VersionConflict
from trainwright.storage.document import Collection, DocumentStore, Has, In, LogPosition, Range, Where

THINGS = Collection("things", indexes=("size", "made", "nested.colour"))
PLAIN = Collection("plain")
COLLECTIONS = (THINGS, PLAIN)


class Interrupted(Exception):
    """What a test's own block raises."""


async def put(store: DocumentStore, id: str, document: dict[str, Any], *, expect: int | None = None) -> None:
    """Write one document in a transaction of its own."""
    async with store.transaction() as tx:
        await tx.put("things", id, document, expect=expect)


async def fill(store: DocumentStore, documents: dict[str, dict[str, Any]]) -> None:
    """Write documents in one transaction."""
    async with store.transaction() as tx:
        for id, document in documents.items():
            await tx.put("things", id, {"id": id, **document})


async def ids(store: DocumentStore, where: Where | None = None, *, sort: str = "id", page: int = 100) -> list[str]:
    """Read a list to its end, page by page."""
    found: list[str] = []
    cursor: str | None = None
    while True:
        answer = await store.find("things", where, sort=sort, limit=page, cursor=cursor)
        assert len(answer.items) <= page
        found += [item["id"] for item in answer.items]
        cursor = answer.next_cursor
        if cursor is None:
            return found


class Documents:
    """Documents come back as they were written; a version that is not expected is not overwritten."""

    async def test_a_document_comes_back_as_it_was_written(self, store: DocumentStore) -> None:
        document = {
            "text": 'ü "quoted" \\ \n\x00 日本',
            "n": 1.5,
            "no": None,
            "deep": {"list": [1, {"a": True}, {"\\u": 2}]},
            "seeds": [2**64 - 1, 2**63, 2**63 - 1, -(2**63)],
        }
        await put(store, "a", document)
        assert await store.get("things", "a") == document
        assert await store.get("things", "b") is None
        assert await store.get("plain", "a") is None

    async def test_a_document_is_replaced_whole(self, store: DocumentStore) -> None:
        await put(store, "a", {"x": 1, "y": 2})
        await put(store, "a", {"x": 3})
        assert await store.get("things", "a") == {"x": 3}

    async def test_only_the_expected_version_is_overwritten(self, store: DocumentStore) -> None:
        await put(store, "a", {"version": 1}, expect=0)
        await put(store, "a", {"version": 2}, expect=1)
        for wrong in (0, 1, 3):
            with pytest.raises(VersionConflict, match=f"at version 2, not {wrong}"):
                await put(store, "a", {"version": 9}, expect=wrong)
        with pytest.raises(VersionConflict, match="at version 0, not 1"):
            await put(store, "other", {"version": 9}, expect=1)
        assert await store.get("things", "a") == {"version": 2}

    async def test_a_deleted_document_is_gone_and_deleting_again_is_harmless(self, store: DocumentStore) -> None:
        await put(store, "a", {"x": 1})
        for _ in range(2):
            async with store.transaction() as tx:
                await tx.delete("things", "a")
        assert await store.get("things", "a") is None
        assert await store.count("things") == 0


async def write_everything_and_raise(store: DocumentStore) -> None:
    """Use all of a transaction, then fail."""
    async with store.transaction() as tx:
        await tx.put("things", "a", {"x": 1})
        await tx.add_outbox([row("1")])
        assert await tx.first_time("key")
        assert await tx.newer("scope", "subject", (0, 1))
        await tx.set_log_position(LogPosition("cluster", {"t/0": 1}))
        raise Interrupted


SIZES: dict[str, dict[str, Any]] = {
    "a": {"size": 3, "made": "2025-01-03", "nested": {"colour": "red"}, "on": True, "tags": ["x", "k=v"]},
    "b": {"size": 1, "made": "2025-01-01", "nested": {"colour": "blue"}, "on": False},
    "c": {"size": 2, "made": "2025-01-02", "nested": {"colour": "red"}, "on": True, "tags": ["x"]},
    "d": {"size": None, "made": "2025-01-02", "nested": {}, "on": None},
    "e": {"made": "2025-01-05"},
}


class Finding:
    """Lists: filters, order, and pages that neither lose nor repeat a document."""

    @pytest.mark.parametrize(
        ("where", "expected"),
        [
            (None, "abcde"),
            ({"nested.colour": "red"}, "ac"),
            ({"nested.colour": "red", "size": 2}, "c"),
            ({"on": True}, "ac"),
            ({"on": False}, "b"),
            ({"size": None}, "de"),
            ({"size": Range(gt=1, lt=3)}, "c"),
            ({"size": Range(gte=1, lte=3)}, "abc"),
            ({"size": Range(gte=2)}, "ac"),
            ({"made": Range(gte="2025-01-02", lt="2025-01-05")}, "acd"),
            ({"size": In((1, 3, 99))}, "ab"),
            ({"size": In((1, None))}, "bde"),
            ({"size": In(())}, ""),
            ({"on": In((True,))}, "ac"),
            ({"tags": Has("x")}, "ac"),
            ({"tags": Has("k=v"), "on": True}, "a"),
            ({"tags": Has("k")}, ""),
            ({"nested.colour": "' OR 1=1 --"}, ""),
            ({"size": 10**30}, ""),
            ({"size": Range(lt=10**30, gt=-(10**30))}, "abc"),
        ],
    )
    async def test_filters_match_what_they_say(
        self, store: DocumentStore, where: Where | None, expected: str
    ) -> None:
        await fill(store, SIZES)
        assert "".join(await ids(store, where)) == expected
        assert await store.count("things", where) == len(expected)
        async with store.transaction() as tx:
            assert [d["id"] for d in (await tx.find("things", where)).items] == list(expected)
            assert await tx.count("things", where) == len(expected)

    async def test_very_many_values_may_be_asked_for_at_once(self, store: DocumentStore) -> None:
        await fill(store, SIZES)
        assert await ids(store, {"size": In(tuple(range(2, 60_000)))}) == ["a", "c"]

    @pytest.mark.parametrize("page", [1, 2, 3, 100])
    @pytest.mark.parametrize(
        ("sort", "expected"),
        [
            ("id", "abcde"),
            ("-id", "edcba"),
            ("size", "debca"),
            ("-size", "acbed"),
            ("made", "bcdae"),
            ("-made", "eadcb"),
            ("nested.colour", "debac"),
            ("-nested.colour", "cabed"),
        ],
    )
    async def test_pages_hold_everything_once_in_order(
        self, store: DocumentStore, sort: str, expected: str, page: int
    ) -> None:
        """Ties go by identifier; what has no value sorts below everything."""
        await fill(store, SIZES)
        assert "".join(await ids(store, sort=sort, page=page)) == expected

    @pytest.mark.parametrize("sort", ["size", "-size"])
    async def test_pages_of_many_ties_are_complete(self, store: DocumentStore, sort: str) -> None:
        values = [None, 1, 2, 2.5, "text"]
        await fill(store, {f"{n:03}": {"size": values[n % 5], "odd": n % 2} for n in range(100)})
        assert sorted(await ids(store, sort=sort, page=7)) == [f"{n:03}" for n in range(100)]
        odd = [f"{n:03}" for n in range(1, 100, 2)]
        assert sorted(await ids(store, {"odd": 1}, sort=sort, page=7)) == odd

    async def test_a_page_stays_where_it_was_when_earlier_documents_come_and_go(
        self, store: DocumentStore
    ) -> None:
        await fill(store, {f"{n}": {"size": n} for n in range(1, 7)})
        first = await store.find("things", sort="size", limit=3)
        async with store.transaction() as tx:
            await tx.delete("things", "2")
            await tx.put("things", "new", {"id": "new", "size": 0})
        second = await store.find("things", sort="size", limit=3, cursor=first.next_cursor)
        assert [d["id"] for d in second.items] == ["4", "5", "6"]
        assert second.next_cursor is None

    @pytest.mark.parametrize(
        "cursor",
        [
            "",
            "x",
            "////",
            "e30",
            "WzFd",
            "bnVsbA",
            "WyJhIiwgWzFdXQ",
            "é",
            "W" * 60_000,
            "W1tbW1tbW1tbW1tbW1tb" * 3000,
        ],
    )
    async def test_a_made_up_cursor_is_refused(self, store: DocumentStore, cursor: str) -> None:
        await fill(store, SIZES)
        with pytest.raises(InvalidInput, match="is not one of this list") as caught:
            await store.find("things", cursor=cursor)
        assert [field.path for field in caught.value.errors] == ["cursor"]

    async def test_a_cursor_of_another_list_is_refused(self, store: DocumentStore) -> None:
        await fill(store, SIZES)
        page = await store.find("things", sort="made", limit=1)
        with pytest.raises(InvalidInput):
            await store.find("things", sort="-made", limit=1, cursor=page.next_cursor)
        with pytest.raises(InvalidInput):
            await store.find("plain", sort="made", limit=1, cursor=page.next_cursor)


class Transactions:
    """All of a transaction or nothing; one after the other."""

    async def test_a_block_that_raises_leaves_nothing(self, store: DocumentStore) -> None:
        with pytest.raises(Interrupted):
            await write_everything_and_raise(store)
        assert await store.get("things", "a") is None
        assert await store.outbox_depth() == 0
        assert await store.log_position() == LogPosition()
        async with store.transaction() as tx:
            assert await tx.first_time("key")
            assert await tx.newer("scope", "subject", (0, 1))

    async def test_a_cancelled_block_leaves_nothing(self, store: DocumentStore) -> None:
        entered = asyncio.Event()

        async def write_and_wait() -> None:
            async with store.transaction() as tx:
                await tx.put("things", "a", {"x": 1})
                entered.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(write_and_wait())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await store.get("things", "a") is None
        await put(store, "b", {"x": 2})
        assert await store.get("things", "b") == {"x": 2}

    @pytest.mark.parametrize("ticks", range(8))
    async def test_a_commit_that_is_cancelled_again_and_again_is_whole(
        self, store: DocumentStore, ticks: int
    ) -> None:
        """Whatever moment the cancellations hit, each transaction is whole and the next one is its own."""

        async def write(name: str) -> None:
            async with store.transaction() as tx:
                await tx.put("things", f"{name}-1", {"id": name})
                await tx.put("things", f"{name}-2", {"id": name})

        for number in range(10):
            first = asyncio.create_task(write(f"{number}-first"))
            for _ in range(ticks):
                await asyncio.sleep(0)
            second = asyncio.create_task(write(f"{number}-second"))
            for _ in range(3):
                first.cancel()
                await asyncio.sleep(0)
            await asyncio.gather(first, return_exceptions=True)
            await second
        for number in range(10):
            for name in ("first", "second"):
                halves = [await store.get("things", f"{number}-{name}-{n}") is not None for n in (1, 2)]
                assert halves in ([True, True], [False, False]), name
                assert name == "first" or halves[0]

    async def test_concurrent_transactions_come_one_after_the_other(self, store: DocumentStore) -> None:
        await put(store, "counter", {"n": 0})

        async def add_one() -> None:
            async with store.transaction() as tx:
                found = await tx.get("things", "counter")
                await asyncio.sleep(0.001)
                assert found is not None
                await tx.put("things", "counter", {"n": found["n"] + 1})

        await asyncio.gather(*[add_one() for _ in range(50)])
        assert await store.get("things", "counter") == {"n": 50}

    async def test_a_read_beside_a_transaction_sees_what_was_committed(self, store: DocumentStore) -> None:
        await put(store, "a", {"x": 1})
        async with store.transaction() as tx:
            await tx.put("things", "a", {"x": 2})
            assert await tx.get("things", "a") == {"x": 2}
            assert await store.get("things", "a") == {"x": 1}
        assert await store.get("things", "a") == {"x": 2}

    async def test_every_commit_ends_what_was_taken_before_it(self, store: DocumentStore) -> None:
        before = store.next_commit()
        await put(store, "a", {})
        await asyncio.wait_for(before, 20)
        after = store.next_commit()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(after, 0.05)

    async def test_a_rolled_back_transaction_wakes_nobody(self, store: DocumentStore) -> None:
        committed = store.next_commit()
        with pytest.raises(Interrupted):
            await write_everything_and_raise(store)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(committed, 0.05)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(store.outbox_added(), 0.05)


class DocumentStoreContract(Documents, Finding, Transactions, Outbox, Repeats, Remembering, Leases):
    """The whole port."""
