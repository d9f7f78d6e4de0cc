"""What every engine must do for several processes of one service: one lease, fences, commits of others seen."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.contract.outbox_store import NOW, row
from trainwright.contracts.errors import LeaseLost, StoreBusy, StoreUnavailable
from trainwright.storage.document import DocumentStore
from trainwright.storage.fence import FENCE, Fence, LeaseState


@contextmanager
def under(fence: Fence) -> Iterator[Fence]:
    """Do something under an epoch of the lease."""
    token = FENCE.set(fence)
    try:
        yield fence
    finally:
        FENCE.reset(token)


async def take(store: DocumentStore, holder: str) -> int:
    """Take the lease as it is now; return the epoch."""
    seen = await store.lease()
    assert await store.take_lease(seen, holder)
    return seen.epoch + 1


class Leases:
    """The lease goes from holder to holder, one at a time; what is done under an old epoch changes nothing."""

    async def test_a_lease_is_taken_once(self, store: DocumentStore, other: DocumentStore) -> None:
        nobody = await store.lease()
        assert nobody == LeaseState()
        assert await store.take_lease(nobody, "a")
        assert not await other.take_lease(nobody, "b")
        assert await other.lease() == LeaseState("a", 1, 0)

    async def test_a_lease_that_was_renewed_is_not_taken(self, store: DocumentStore, other: DocumentStore) -> None:
        epoch = await take(store, "a")
        seen = await other.lease()
        assert await store.renew_lease(epoch)
        assert not await other.take_lease(seen, "b")
        assert (await store.lease()).holder == "a"

    async def test_a_take_over_begins_an_epoch(self, store: DocumentStore, other: DocumentStore) -> None:
        first = await take(store, "a")
        second = await take(other, "b")
        assert second == first + 1
        assert not await store.renew_lease(first)
        await store.release_lease(first)  # and nothing happens
        assert (await other.lease()).holder == "b"

    async def test_a_lease_that_was_let_go_is_free(self, store: DocumentStore) -> None:
        epoch = await take(store, "a")
        await store.release_lease(epoch)
        assert (await store.lease()).holder is None
        assert await take(store, "b") == epoch + 1

    async def test_what_is_done_under_an_old_epoch_changes_nothing(
        self, store: DocumentStore, other: DocumentStore
    ) -> None:
        with under(Fence(await take(store, "a"))) as fence:
            async with store.transaction() as tx:
                await tx.put("plain", "x", {"by": "a"})
                await tx.add_outbox([row("one")])
            (sent,) = await store.outbox_pending("event", 10)
            await take(other, "b")
            with pytest.raises(LeaseLost):
                async with store.transaction() as tx:
                    await tx.put("plain", "x", {"by": "late"})
            with pytest.raises(LeaseLost):
                async with store.transaction() as tx:
                    await tx.mark_sent([sent.seq], NOW)
            await asyncio.wait_for(fence.wait(), 20)
        assert await other.get("plain", "x") == {"by": "a"}
        assert len(await other.outbox_pending("event", 10)) == 1
        async with store.transaction() as tx:  # a request over HTTP is none of the leader's work
            await tx.put("plain", "x", {"by": "anybody"})

    async def test_a_renewal_takes_nothing_from_what_is_being_written(self, store: DocumentStore) -> None:
        epoch = await take(store, "a")
        with under(Fence(epoch)):
            async with store.transaction() as tx:
                await tx.get("plain", "x")
                renewal = asyncio.create_task(store.renew_lease(epoch))
                await asyncio.wait({renewal}, timeout=0.3)
                await tx.put("plain", "x", {"by": "a"})
        assert await renewal
        assert await store.get("plain", "x") == {"by": "a"}

    async def test_of_a_take_over_and_what_is_being_written_one_fails(
        self, store: DocumentStore, other: DocumentStore
    ) -> None:
        epoch = await take(store, "a")
        seen = await other.lease()
        taken = written = False
        with under(Fence(epoch)), contextlib.suppress(StoreUnavailable):
            async with store.transaction() as tx:
                await tx.get("plain", "x")
                await tx.put("plain", "x", {"by": "a"})
                with contextlib.suppress(StoreBusy):
                    taken = await other.take_lease(seen, "b")
            written = True
        assert (await other.lease()).epoch == epoch + taken
        assert (await other.get("plain", "x") is not None) == written
        assert not (taken and written)

    async def test_commits_of_another_process_are_seen(self, store: DocumentStore, other: DocumentStore) -> None:
        await store.look_for_commits()
        committed = store.next_commit()
        async with other.transaction() as tx:
            await tx.add_outbox([row("one")])
        await store.look_for_commits()
        await asyncio.wait_for(committed, 20)
        await asyncio.wait_for(store.outbox_added(), 20)
