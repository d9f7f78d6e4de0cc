"""The document port in memory: for simulations, where a seed decides what fails and when. Nothing outlives it.

No call ever waits for anything but another transaction, so a single thread may drive it without an event loop.
A document that was read is the store's own: whoever gets it must not write into it.
Not here: series and records; what fails (whoever passes ``at``).
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property, partial
from itertools import islice
from operator import eq, ge, gt, itemgetter, le, lt
from typing import Any

import orjson

from trainwright.contracts.base import iso
from trainwright.storage import versions
from trainwright.storage.commits import Commits
from trainwright.storage.document import (
    Collection,
    Document,
    Has,
    In,
    LogPosition,
    OutboxRow,
    Page,
    Range,
    Scalar,
    Where,
    decode_cursor,
    encode_cursor,
)
from trainwright.storage.fence import FENCE, LeaseState

Point = Callable[[str], None]
"""Told ``read``, ``begin``, ``before commit`` and ``after commit``; what it raises is what happens there."""


class _Kept:
    """A document as bytes, and decoded, once, for all who read it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw

    @cached_property
    def value(self) -> Document:
        decoded: Document = orjson.loads(self.raw)
        return decoded


@dataclass(slots=True)
class MemoryState:
    """What is committed: it outlives the store that wrote it."""

    documents: dict[str, dict[str, _Kept | None]] = field(default_factory=dict)
    inbox: set[str] = field(default_factory=set)
    guards: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    pending: dict[int, OutboxRow] = field(default_factory=dict)
    done: dict[int, tuple[str, OutboxRow]] = field(default_factory=dict)
    position: LogPosition | None = None
    seq: int = 0
    lease: LeaseState = field(default_factory=LeaseState)
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    commits: int = 0
    written: Mapping[str, Mapping[str, _Kept | None]] = field(default_factory=dict)
    """What the last commit wrote, by collection."""
    outbox_added: int = 0
    """The last commit that added rows to the outbox."""


@dataclass(slots=True)
class _News:
    """What a transaction has written so far."""

    documents: dict[str, dict[str, _Kept | None]] = field(default_factory=dict)
    inbox: set[str] = field(default_factory=set)
    guards: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    outbox: list[OutboxRow] = field(default_factory=list)
    sent: dict[int, str] = field(default_factory=dict)
    position: LogPosition | None = None


class MemoryTransaction:
    """A transaction that is open."""

    def __init__(self, base: MemoryState) -> None:
        self._base = base
        self.news = _News()

    async def get(self, collection: str, id: str) -> Document | None:
        own = self.news.documents.get(collection, {})
        kept = own[id] if id in own else self._base.documents[collection].get(id)
        return None if kept is None else kept.value

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        return _page(self._merged(collection), where, collection, sort, limit, cursor)

    async def count(self, collection: str, where: Where | None = None) -> int:
        return len(_matching(self._merged(collection), where))

    async def put(
        self, collection: str, id: str, document: Mapping[str, Any], *, expect: int | None = None
    ) -> None:
        if expect is not None:
            versions.check(await self.get(collection, id), expect, f"{collection} {id}")
        self.news.documents.setdefault(collection, {})[id] = _Kept(orjson.dumps(document))

    async def delete(self, collection: str, id: str) -> None:
        self.news.documents.setdefault(collection, {})[id] = None

    async def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        self.news.outbox += rows

    async def first_time(self, key: str) -> bool:
        known = key in self._base.inbox or key in self.news.inbox
        self.news.inbox.add(key)
        return not known

    async def newer(self, scope: str, subject: str, order: tuple[int, int]) -> bool:
        key = (scope, subject)
        last = self.news.guards.get(key, self._base.guards.get(key))
        if last is not None and order <= last:
            return False
        self.news.guards[key] = order
        return True

    async def mark_sent(self, seqs: Sequence[int], at: datetime) -> None:
        self.news.sent |= dict.fromkeys(seqs, iso(at))

    async def set_log_position(self, position: LogPosition) -> None:
        self.news.position = position

    def _merged(self, collection: str) -> dict[str, _Kept | None]:
        own = self.news.documents.get(collection)
        base = self._base.documents[collection]
        return {**base, **own} if own else base


class MemoryStore:
    """One process's view of a service's store; ``at`` is told each point where something may happen to it.

    ``state`` is what an earlier process left behind.
    """

    def __init__(
        self, collections: Sequence[Collection], at: Point = lambda name: None, state: MemoryState | None = None
    ) -> None:
        self.state = MemoryState() if state is None else state
        for collection in collections:
            self.state.documents.setdefault(collection.name, {})
        self._at = at
        self._commits = Commits()
        self._seen = self.state.commits

    async def open(self) -> None:
        """Do nothing: it is ready."""

    async def close(self) -> None:
        """Do nothing: whoever holds it may go on."""

    def transaction(self, *, durable: bool = True) -> "_Open":
        return _Open(self)

    async def get(self, collection: str, id: str) -> Document | None:
        return await self._reader().get(collection, id)

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        return await self._reader().find(collection, where, sort=sort, limit=limit, cursor=cursor)

    async def count(self, collection: str, where: Where | None = None) -> int:
        return await self._reader().count(collection, where)

    async def outbox_pending(self, kind: str, limit: int) -> list[OutboxRow]:
        if not self.state.pending:
            return []
        rows = (self.state.pending[seq] for seq in sorted(self.state.pending))
        return list(islice((row for row in rows if row.kind == kind), limit))

    async def outbox_depth(self) -> int:
        return len(self.state.pending)

    async def outbox_again(self, since: datetime) -> int:
        moment, done = iso(since), self.state.done
        again = {seq: row for seq, (at, row) in done.items() if row.kind == "event" and at >= moment}
        self.state.done = {seq: sent for seq, sent in done.items() if seq not in again}
        self.state.pending |= again
        self._commits.outbox.set()
        return len(again)

    async def outbox_sweep(self, before: datetime) -> int:
        moment, done = iso(before), self.state.done
        self.state.done = {seq: sent for seq, sent in done.items() if sent[0] >= moment}
        return len(done) - len(self.state.done)

    async def note_try(self, seq: int) -> None:
        row = self.state.pending[seq]
        self.state.pending[seq] = replace(row, tries=row.tries + 1)

    async def log_position(self) -> LogPosition:
        return self.state.position or LogPosition()

    async def outbox_added(self) -> None:
        await self._commits.outbox_added()

    def next_commit(self) -> Awaitable[object]:
        return self._commits.next

    async def look_for_commits(self) -> None:
        state, seen = self.state, self._seen
        self._seen = state.commits
        if state.commits > seen:
            self._commits.done(added_outbox=state.outbox_added > seen)

    async def lease(self) -> LeaseState:
        return self.state.lease

    async def take_lease(self, seen: LeaseState, holder: str) -> bool:
        if self.state.lease != seen:
            return False
        self.state.lease = LeaseState(holder, seen.epoch + 1)
        return True

    async def renew_lease(self, epoch: int) -> bool:
        if self.state.lease.epoch == epoch:
            self.state.lease = replace(self.state.lease, beat=self.state.lease.beat + 1)
        return self.state.lease.epoch == epoch

    async def release_lease(self, epoch: int) -> None:
        if self.state.lease.epoch == epoch:
            self.state.lease = replace(self.state.lease, holder=None)

    def _reader(self) -> MemoryTransaction:
        self._at("read")
        return MemoryTransaction(self.state)

    def _commit(self, news: _News) -> None:
        state = self.state
        for collection, changed in news.documents.items():
            kept = state.documents[collection]
            for id, document in changed.items():
                if document is None:
                    kept.pop(id, None)
                else:
                    kept[id] = document
        state.written = news.documents
        state.inbox |= news.inbox
        state.guards |= news.guards
        for seq, at in news.sent.items():
            if (row := state.pending.pop(seq, None)) is not None:
                state.done[seq] = (at, row)
        state.position = news.position or state.position
        for row in news.outbox:
            state.seq += 1
            state.pending[state.seq] = OutboxRow(
                row.id, row.kind, row.topic, row.key, row.headers, row.value, state.seq
            )
        if state.commits == self._seen:
            self._seen += 1  # its own are no news
        state.commits += 1
        if news.outbox:
            state.outbox_added = state.commits
        self._commits.done(added_outbox=bool(news.outbox))


class _Open:
    """A transaction from its beginning to its commit; without one if what is done in it raises."""

    __slots__ = ("_store", "_transaction")

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    async def __aenter__(self) -> MemoryTransaction:
        store = self._store
        await store.state.writing.acquire()
        try:
            store._at("begin")
        except BaseException:
            store.state.writing.release()
            raise
        self._transaction = MemoryTransaction(store.state)
        return self._transaction

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        store = self._store
        try:
            if kind is None:
                store._at("before commit")
                if (fence := FENCE.get()) is not None and fence.epoch != store.state.lease.epoch:
                    raise fence.fail()
                store._commit(self._transaction.news)
                store._at("after commit")
        finally:
            store.state.writing.release()


def _page(
    kept: Mapping[str, _Kept | None],
    where: Where | None,
    collection: str,
    sort: str,
    limit: int,
    cursor: str | None,
) -> Page:
    path, descending, of_list = sort.removeprefix("-"), sort.startswith("-"), f"{collection} {sort}"
    names = path.split(".")
    rows = [
        (_rank(value := id if path == "id" else _at(one.value, names)), id, value, one)
        for id, one in _matching(kept, where)
    ]
    rows.sort(key=itemgetter(0, 1), reverse=descending)
    if cursor is not None:
        value, id = decode_cursor(cursor, of_list)
        last = (_rank(value), id)
        rows = [row for row in rows if (row[:2] < last if descending else row[:2] > last)]
    more, rows = len(rows) > limit, rows[:limit]
    next_cursor = encode_cursor(rows[-1][2], rows[-1][1], of_list) if more and rows else None
    return Page([one.value for *_, one in rows], next_cursor)


def _rank(value: Scalar) -> tuple[int, Any]:
    """Return what sorts as in the other engines: nothing, then numbers, then text."""
    if value is None:
        return (0, 0)
    return (2, value) if isinstance(value, str) else (1, value)


def _matching(kept: Mapping[str, _Kept | None], where: Where | None) -> list[tuple[str, _Kept]]:
    alive = [(id, one) for id, one in kept.items() if one is not None]
    for path, wanted in (where or {}).items():
        names, fits = path.split("."), _test(wanted)
        alive = [(id, one) for id, one in alive if fits(id if path == "id" else _at(one.value, names))]
    return alive


def _at(document: Document, path: Sequence[str]) -> Any:
    found: Any = document.get(path[0])
    for name in path[1:]:
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _test(wanted: Scalar | Range | In | Has) -> Callable[[Any], bool]:
    """Return what says of a value whether it fits."""
    if isinstance(wanted, In):
        return wanted.values.__contains__
    if isinstance(wanted, Has):
        return lambda value: isinstance(value, list) and wanted.value in value
    if not isinstance(wanted, Range):
        return partial(eq, wanted)
    bounds = ((wanted.gt, gt), (wanted.gte, ge), (wanted.lt, lt), (wanted.lte, le))
    given = [(_rank(bound), holds) for bound, holds in bounds if bound is not None]
    return lambda value: all(_rank(value)[0] == kind and holds(value, bound) for (kind, bound), holds in given)
