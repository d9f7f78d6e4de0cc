"""One listener's way through the log: from its position to the live end, and on.

What it has is its position, nothing else: that makes it resumable anywhere, and a slow one cheap.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

from services.gateway.stream.events import Filter, Said
from services.gateway.stream.feed import Feed
from services.gateway.stream.history import Gap
from services.gateway.stream.position import EARLIEST, Position
from trainwright.runtime.kafka import UNREACHABLE

AT_ONCE = 200
"""Records that are looked at between two turns of others."""
TRY_AGAIN = 0.5
"""Seconds until a listener tries again to read what is not in the feed."""
GRACE = 2.0
"""Seconds without Kafka until that is said: connecting takes a moment, too."""

Entry = tuple[str, Said | Gap]
"""The position after something, and the thing."""
Start = Position | datetime | None
"""Where to begin: after a position, at a moment, or (None) with what comes."""


@dataclass(slots=True)
class Batch:
    """What has come; ``waiting``: Kafka is away since the last one; ``more``: there is more to look at."""

    entries: list[Entry] = field(default_factory=list)
    waiting: bool = False
    more: bool = False


class Subscription:
    """Finds what a filter wants from a start on, each event once, in the order of each partition."""

    def __init__(self, feed: Feed, filter: Filter, start: Start, *, newcomers_from_end: bool = False) -> None:
        """``newcomers_from_end``: partitions that the position does not name begin with what comes."""
        self._newcomers_from_end = newcomers_from_end
        self._feed = feed
        self.filter = filter
        self._start = start
        self.position = start.copy() if isinstance(start, Position) else Position()
        self._known = isinstance(start, Position)
        self._live: int | None = None
        self._resets = feed.resets
        self._away_since: float | None = None
        self._waits = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take part until the end of the block."""
        with self._feed.listening(self.filter.topics):
            yield

    async def next(self, within: float) -> Batch:
        """Return what comes next; an empty batch after so many seconds, or when the position moved a long way."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + within
        while True:
            news = self._feed.news()
            found = await self._look()
            if self._is_told_to_wait(found, loop.time()):
                return Batch(waiting=True)
            if found is not None and found.entries:
                return found
            left = deadline - loop.time()
            if left <= 0:
                return Batch()
            if found is not None and found.more:
                continue
            try:
                await asyncio.wait_for(news.wait(), left if self._live is not None else min(left, TRY_AGAIN))
            except TimeoutError:
                continue

    def _is_told_to_wait(self, found: Batch | None, now: float) -> bool:
        """Return whether it is time to say, once, that Kafka is away."""
        if found is not None:
            self._away_since, self._waits = None, False
            return False
        self._away_since = now if self._away_since is None else self._away_since
        if self._waits or now - self._away_since < GRACE:
            return False
        self._waits = True
        return True

    async def _look(self) -> Batch | None:
        """Return what there is now; None while Kafka is away."""
        if self._resets != self._feed.resets:
            self._live = None
        if self._live is not None:
            found = self._feed.after(self._live, AT_ONCE)
            if found is not None:
                self._live += len(found)
                if more := len(found) == AT_ONCE:
                    await asyncio.sleep(0)
                entries = self._take(found)
                return Batch(entries, more=more) if entries or self._feed.connected else None
            self._live = None
        if not self._feed.ready(self.filter.topics):
            return None
        try:
            return await self._catch_up()
        except UNREACHABLE:
            return None

    async def _catch_up(self) -> Batch:
        resets = self._feed.resets
        await self._begin()
        entries: list[Entry] = []
        if self.position.cluster != self._feed.cluster:
            entries += self._other_log()
        if self._feed.covers(self.position, self.filter.topics):
            self._live, self._resets = self._feed.first, resets
            return Batch(entries, more=True)
        there = self._feed.end(self.filter.topics)
        page = await self._feed.history.page({each: self.position.get(each) or 0 for each in there})
        for partition, offset in page.moved.items():
            self.position.set(partition, offset)
        entries += [(str(self.position), gap) for gap in page.gaps]
        return Batch(entries + self._take(page.records), more=bool(page.records or page.moved))

    async def _begin(self) -> None:
        """Know every partition, also those that the position does not name."""
        ends = self._feed.end(self.filter.topics)
        if not self._known:
            found = ends
            if isinstance(self._start, datetime):
                found = await self._feed.history.at(ends, self._start)
            self.position, self._known = Position(self._feed.cluster, found), True
        self.position.cluster = self.position.cluster or self._feed.cluster
        for partition, end in ends.items():
            if self.position.get(partition) is None:
                self.position.set(partition, end if self._newcomers_from_end else EARLIEST)

    def _other_log(self) -> list[Entry]:
        self.position = Position(self._feed.cluster, dict.fromkeys(self._feed.end(self.filter.topics), EARLIEST))
        return [(str(self.position), Gap("reset"))]

    def _take(self, found: Iterable[Said]) -> list[Entry]:
        """Move over records; return those that are wanted and have not been passed."""
        entries: list[Entry] = []
        for said in found:
            partition = said.partition
            if partition[0] not in self.filter.topics or said.offset < (self.position.get(partition) or 0):
                continue
            self.position.set(partition, said.offset + 1)
            if self.filter.wants(said):
                entries.append((str(self.position), said))
        return entries
