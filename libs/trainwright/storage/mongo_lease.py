"""What one process of a service knows of the others, on MongoDB: who leads, and that somebody has committed.

The lease lies among the marks of transactions, so that meeting it costs no round trip of its own.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, nullcontext
from datetime import UTC, datetime
from typing import Any

from pymongo import InsertOne, UpdateOne

from trainwright.contracts.errors import StoreUnavailable
from trainwright.storage.commits import Commits
from trainwright.storage.fence import FENCE, LeaseState
from trainwright.storage.mongo_documents import COMMITS, LEASE

UNSURE_LOOKS = 20
"""Looks for commits of others after which one is taken for granted: two at once may show in the other order."""


async def seal(commits: Any, session: Any, mark: str) -> None:
    """Leave a transaction's mark, and meet the lease that its work is done under: a take-over and what is done
    under the epoch before it change the same document, so that one of them fails.

    Raises:
        LeaseLost: Another epoch has begun.
    """
    fence = FENCE.get()
    writes: list[InsertOne[Any] | UpdateOne] = [InsertOne({"_id": mark, "at": datetime.now(UTC)})]
    if fence is not None:
        writes.append(UpdateOne({"_id": LEASE, "epoch": fence.epoch}, {"$inc": {"beat": 1}}))
    done = await commits.bulk_write(writes, session=session)
    if fence is not None and not done.matched_count:
        raise fence.fail()


class MongoLease(ABC):
    """The part of a store that several processes meet in."""

    def __init__(self) -> None:
        self._meeting = asyncio.Lock()
        self._commits = Commits()
        self._seen: list[Any] = []
        self._looks = 0

    async def outbox_added(self) -> None:
        await self._commits.outbox_added()

    def next_commit(self) -> Awaitable[object]:
        return self._commits.next

    async def look_for_commits(self) -> None:
        with self._answering("read"):
            newest = self._database()[COMMITS].find({}, ["_id"]).sort([("$natural", -1)]).limit(1)
            seen = [found["_id"] for found in await newest.to_list(1)]
        self._looks += 1
        if seen != self._seen or self._looks % UNSURE_LOOKS == 0:
            self._seen = seen
            self._commits.done(added_outbox=True)

    async def lease(self) -> LeaseState:
        with self._answering("read"):
            found = await self._database()[COMMITS].find_one({"_id": LEASE})
        return LeaseState() if found is None else LeaseState(found["holder"], found["epoch"], found["beat"])

    async def take_lease(self, seen: LeaseState, holder: str) -> bool:
        wanted: dict[str, Any] = {"_id": LEASE, "epoch": seen.epoch}
        if seen.epoch:
            wanted |= {"holder": seen.holder, "beat": seen.beat}
        change = {"$set": {"holder": holder, "epoch": seen.epoch + 1, "beat": 0}}
        try:
            with self._answering("written"):
                done = await self._database()[COMMITS].update_one(wanted, change, upsert=not seen.epoch)
        except StoreUnavailable:
            if await self.lease() != seen:
                return False  # the first of two that made it was faster
            raise
        return bool(done.matched_count or done.upserted_id)

    async def renew_lease(self, epoch: int) -> bool:
        async with self._meeting:
            with self._answering("written"):
                wanted, change = {"_id": LEASE, "epoch": epoch}, {"$inc": {"beat": 1}}
                done = await self._database()[COMMITS].update_one(wanted, change)
        return bool(done.matched_count)

    def _beside_no_renewal(self) -> AbstractAsyncContextManager[object]:
        """Keep renewals away from a transaction that changes the lease at its end: they would have it refused.

        Others, of which many may wait for their turn, keep no renewal waiting.
        """
        return nullcontext() if FENCE.get() is None else self._meeting

    async def release_lease(self, epoch: int) -> None:
        with self._answering("written"):
            wanted, change = {"_id": LEASE, "epoch": epoch}, {"$set": {"holder": None}}
            await self._database()[COMMITS].update_one(wanted, change)

    @abstractmethod
    def _database(self) -> Any: ...

    @abstractmethod
    def _answering(self, done: str) -> AbstractContextManager[None]: ...
