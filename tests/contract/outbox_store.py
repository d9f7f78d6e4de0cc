"""What every engine of the document port must do with what goes out and what came in.

Part of ``document_store.DocumentStoreContract``: outbox, inbox, guards, and how far the log was known to reach.
"""

import asyncio
from datetime import UTC, datetime, timedelta

from trainwright.storage.document import DocumentStore, LogPosition, OutboxRow

NOW = datetime(2025, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def row(name: str, kind: str = "event", value: bytes = b"{}") -> OutboxRow:
    """Return an outbox row."""
    return OutboxRow(name, kind, "topic", f"key-{name}", [("ce_id", name), ("x", "ü")], value)


class Outbox:
    """Rows wait in order, are marked, may be sent again, and are forgotten in time."""

    async def test_rows_come_back_in_order_with_all_they_carry(self, store: DocumentStore) -> None:
        async with store.transaction() as tx:
            await tx.add_outbox([row("1", value=b"\x00\xff"), row("2")])
        async with store.transaction() as tx:
            await tx.add_outbox([row("3")])
        found = await store.outbox_pending("event", 10)
        assert [r.id for r in found] == ["1", "2", "3"]
        assert [r.seq for r in found] == sorted({r.seq for r in found})
        assert (found[0].value, found[0].headers, found[0].key) == (b"\x00\xff", row("1").headers, "key-1")
        assert [r.id for r in await store.outbox_pending("event", 2)] == ["1", "2"]

    async def test_effects_and_events_do_not_mix(self, store: DocumentStore) -> None:
        async with store.transaction() as tx:
            await tx.add_outbox([row("event"), row("effect", kind="effect")])
        assert [r.id for r in await store.outbox_pending("effect", 10)] == ["effect"]
        assert [r.id for r in await store.outbox_pending("event", 10)] == ["event"]
        assert await store.outbox_depth() == 2

    async def test_marked_rows_are_done_until_they_are_wanted_again(self, store: DocumentStore) -> None:
        async with store.transaction() as tx:
            await tx.add_outbox([row(str(n)) for n in range(4)] + [row("effect", kind="effect")])
        seqs = [r.seq for r in await store.outbox_pending("event", 10)]
        effect = (await store.outbox_pending("effect", 1))[0].seq
        async with store.transaction() as tx:
            await tx.mark_sent(seqs[:1], NOW - timedelta(hours=2))
            await tx.mark_sent([*seqs[1:3], effect], NOW)
        assert [r.id for r in await store.outbox_pending("event", 10)] == ["3"]
        assert await store.outbox_depth() == 1
        assert await store.outbox_again(NOW - timedelta(hours=1)) == 2
        assert [r.id for r in await store.outbox_pending("event", 10)] == ["1", "2", "3"]
        assert await store.outbox_pending("effect", 10) == [], "an effect is not repeated because Kafka lost data"

    async def test_sweeping_forgets_only_what_was_done_long_ago(self, store: DocumentStore) -> None:
        async with store.transaction() as tx:
            await tx.add_outbox([row(str(n)) for n in range(3)])
        seqs = [r.seq for r in await store.outbox_pending("event", 10)]
        async with store.transaction() as tx:
            await tx.mark_sent(seqs[:1], NOW - timedelta(days=2))
            await tx.mark_sent(seqs[1:2], NOW)
        assert await store.outbox_sweep(NOW - timedelta(days=1)) == 1
        assert await store.outbox_again(NOW - timedelta(days=9)) == 1
        assert [r.id for r in await store.outbox_pending("event", 10)] == ["1", "2"]

    async def test_a_failed_try_is_counted(self, store: DocumentStore) -> None:
        async with store.transaction() as tx:
            await tx.add_outbox([row("1", kind="effect")])
        seq = (await store.outbox_pending("effect", 1))[0].seq
        await store.note_try(seq)
        await store.note_try(seq)
        assert (await store.outbox_pending("effect", 1))[0].tries == 2

    async def test_who_waits_for_rows_is_woken_by_their_commit(self, store: DocumentStore) -> None:
        waiting = asyncio.create_task(store.outbox_added())
        async with store.transaction() as tx:
            await tx.put("things", "a", {})
        await asyncio.sleep(0.02)
        assert not waiting.done(), "a commit without rows wakes nobody"
        async with store.transaction() as tx:
            await tx.add_outbox([row("1")])
        await asyncio.wait_for(waiting, 20)
        async with store.transaction() as tx:
            await tx.add_outbox([row("2")])
        await asyncio.wait_for(store.outbox_added(), 20)


class Repeats:
    """Inbox and guards: what was applied is known, whoever asks at the same time."""

    async def test_a_key_is_new_once(self, store: DocumentStore) -> None:
        async with store.transaction() as tx:
            assert await tx.first_time("a")
            assert not await tx.first_time("a")
            assert await tx.first_time("b")
        async with store.transaction() as tx:
            assert not await tx.first_time("a")

    async def test_an_order_is_new_only_above_the_last_one(self, store: DocumentStore) -> None:
        orders = [(0, 2), (0, 2), (0, 1), (0, 3), (1, 0), (0, 99), (1, 1), (10, 0), (9, 9)]
        async with store.transaction() as tx:
            found = [await tx.newer("scope", "subject", order) for order in orders]
            assert found == [True, False, False, True, True, False, True, True, False]
            assert await tx.newer("scope", "other", (0, 1))
            assert await tx.newer("other", "subject", (0, 1))

    async def test_only_one_of_many_at_once_is_the_first(self, store: DocumentStore) -> None:
        async def ask(order: int) -> tuple[bool, bool]:
            async with store.transaction() as tx:
                await asyncio.sleep(0)
                return await tx.first_time("key"), await tx.newer("scope", "subject", (0, order))

        answers = await asyncio.gather(*[ask(n) for n in (3, 1, 5, 2, 4)])
        assert [first for first, _ in answers].count(True) == 1
        async with store.transaction() as tx:
            assert not await tx.newer("scope", "subject", (0, 5))
            assert await tx.newer("scope", "subject", (0, 6))


class Remembering:
    """How far the log reached."""

    async def test_the_log_position_is_kept(self, store: DocumentStore) -> None:
        assert await store.log_position() == LogPosition()
        for position in (LogPosition("c1", {"t/0": 5, "t/1": 7}, {"t": "i"}), LogPosition("c2")):
            async with store.transaction() as tx:
                await tx.set_log_position(position)
            assert await store.log_position() == position
