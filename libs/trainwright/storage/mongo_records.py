"""The records port on MongoDB, in the database and the transactions of a ``MongoStore``.

Records lie in blocks of about 16 KiB in the order of their arrival; the last block is written again until it is
full. A block remembers the times and the gravest level that it spans, so that level and time need no index, and
has its messages as a list that the server searches: only blocks that hold the keyword are sent. Which of their
records match is decided here, so that it is the same on every server. Positions are counted in the task's own
document, which keeps two replicas from writing to one task at once.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from trainwright.contracts.log import LogEntry, LogRecord, LogStream
from trainwright.storage.document import Collection, Document, Transaction
from trainwright.storage.mongo import MongoReader, MongoStore, MongoTransaction
from trainwright.storage.numbered import above
from trainwright.storage.records import (
    LEVELS,
    Found,
    Search,
    bounds_of,
    carried_by,
    check_cursor,
    entry_of,
    micros,
    source_of,
    sources_of,
)

TASKS, BLOCKS = "log_tasks", "log_blocks"
COLLECTIONS = (Collection(TASKS), Collection(BLOCKS))

FULL = 16 * 1024
"""Bytes from which on a block takes no more."""
ROWS = 512
"""Records that a block has at most."""
LOOK, MOST = 2, 64
"""Blocks of the server's first answer, and of later ones: mostly the first is enough."""

_ROW = 48


@dataclass(slots=True)
class _Task:
    """What is known of a task: its last position, marks of streams, losses, and where the last block begins."""

    id: str
    seq: int = 0
    dropped: int = 0
    block: int = 0
    marks: dict[str, int] = field(default_factory=dict)
    losses: dict[str, int] = field(default_factory=dict)

    def document(self) -> Document:
        known = {"seq": self.seq, "dropped": self.dropped, "block": self.block}
        return {"_id": self.id, **known, "marks": self.marks, "losses": self.losses}


@dataclass(slots=True)
class _Block:
    """Records from the position ``first`` on, in columns."""

    first: int
    attempts: list[int] = field(default_factory=list)
    streams: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    levels: list[int] = field(default_factory=list)
    messages: list[str] = field(default_factory=list)
    carried: list[str | None] = field(default_factory=list)
    size: int = 0

    def full(self) -> bool:
        return self.size >= FULL or len(self.messages) >= ROWS

    def add(self, attempt: int, source: str, record: LogRecord) -> None:
        carried = carried_by(record)
        self.attempts.append(attempt)
        self.streams.append(source)
        self.times.append(micros(record.time))
        self.levels.append(LEVELS[record.level])
        self.messages.append(record.message)
        self.carried.append(carried)
        self.size += _ROW + len(record.message.encode()) + len(carried or "")

    def document(self, id: str) -> Document:
        last = self.first + len(self.messages) - 1
        span = {"from": min(self.times), "to": max(self.times), "gravest": max(self.levels)}
        columns = {name: getattr(self, name) for name in _COLUMNS}
        return {"_id": id, "first": self.first, "last": last, "size": self.size, **span, **columns}


_COLUMNS = ("attempts", "streams", "times", "levels", "messages", "carried")


class MongoRecords:
    """Log records beside the documents of one store; open the store with ``COLLECTIONS``."""

    def __init__(self, store: MongoStore) -> None:
        self._store = store

    async def append(
        self,
        tx: Transaction,
        task_id: str,
        attempt: int,
        stream: LogStream,
        records: Sequence[LogRecord],
        rank: int | None = None,
    ) -> int:
        transaction, source = _transaction(tx), source_of(stream, rank)
        task, key = await _task(transaction, task_id) or _Task(task_id), f"{attempt}/{source}"
        fresh = above(task.marks.get(key, -1), records)
        if not fresh:
            return 0
        task.marks[key] = fresh[-1].seq
        lost = min(
            (task.losses[one] for one in (str(attempt), f"{attempt}/{rank}") if one in task.losses), default=None
        )
        kept = [record for record in fresh if lost is None or micros(record.time) <= lost]
        task.dropped += len(fresh) - len(kept)
        await _write(transaction, task, attempt, source, kept)
        transaction.keep(TASKS, task.document())
        return len(kept)

    async def note_lost(
        self, tx: Transaction, task_id: str, attempt: int, at: datetime, rank: int | None = None
    ) -> None:
        transaction, key = _transaction(tx), str(attempt) if rank is None else f"{attempt}/{rank}"
        task = await _task(transaction, task_id) or _Task(task_id)
        task.losses[key] = min(micros(at), task.losses.get(key, micros(at)))
        transaction.keep(TASKS, task.document())

    async def known(self, task_id: str) -> bool:
        with self._store.reading() as reader:
            return await _task(reader, task_id) is not None

    async def dropped(self, task_id: str) -> int:
        with self._store.reading() as reader:
            task = await _task(reader, task_id)
        return 0 if task is None else task.dropped

    async def find(self, task_id: str, search: Search, *, cursor: int = 0, limit: int = 100) -> Found:
        entries: list[LogEntry] = []
        with self._store.reading() as reader:
            head = (await _task(reader, task_id) or _Task(task_id)).seq
            check_cursor(cursor, head)
            matches, place, look = _matcher(search), _id(task_id, max(cursor - ROWS, 0)), LOOK
            while True:
                wanted = {
                    **_filter_of(search),
                    "_id": {"$gt": place, "$lte": _id(task_id, head)},
                    "last": {"$gt": cursor},
                }
                found = await reader.scan(BLOCKS, wanted, look, ("first", *_COLUMNS))
                for block in found:
                    for position, row in enumerate(
                        zip(*(block[name] for name in _COLUMNS), strict=True), block["first"]
                    ):
                        if cursor < position <= head and matches(row):
                            entries.append(entry_of(*row))
                            if len(entries) == limit:
                                return Found(entries, position)
                if len(found) < look:
                    return Found(entries, head)
                place, look = found[-1]["_id"], min(2 * look, MOST)


def _transaction(tx: Transaction) -> MongoTransaction:
    if not isinstance(tx, MongoTransaction):
        raise TypeError("records on MongoDB share the transactions of a MongoStore")
    return tx


def _id(task_id: str, first: int) -> str:
    return f"{task_id}/{first:019d}"


async def _task(reader: MongoReader | MongoTransaction, task_id: str) -> _Task | None:
    found = await reader.stored(TASKS, task_id)
    if found is None:
        return None
    marks, losses = dict(found["marks"]), dict(found["losses"])
    return _Task(task_id, found["seq"], found["dropped"], found["block"], marks, losses)


async def _write(
    tx: MongoTransaction, task: _Task, attempt: int, source: str, records: Sequence[LogRecord]
) -> None:
    """Put records into the last block, and into new ones when it is full."""
    if not records:
        return
    block = _Block(task.seq + 1)
    if task.block and (stored := await tx.stored(BLOCKS, _id(task.id, task.block))) is not None:
        columns = {name: [*stored[name]] for name in _COLUMNS}
        last = _Block(stored["first"], **columns, size=stored["size"])
        block = block if last.full() else last
    for record in records:
        if block.full():
            tx.keep(BLOCKS, block.document(_id(task.id, block.first)))
            block = _Block(task.seq + 1)
        block.add(attempt, source, record)
        task.seq += 1
    task.block = 0 if block.full() else block.first
    tx.keep(BLOCKS, block.document(_id(task.id, block.first)))


def _filter_of(search: Search) -> Document:
    """Return the filter of the blocks that may hold what matches."""
    start, end, level = bounds_of(search)
    wanted: Document = {}
    if search.start is not None:
        wanted["to"] = {"$gte": start}
    if search.end is not None:
        wanted["from"] = {"$lte": end}
    if search.level is not None:
        wanted["gravest"] = {"$gte": level}
    if search.rank is not None:
        wanted["streams"] = {"$in": sources_of(search)}
    if search.keyword and search.keyword.isascii() and search.keyword.isprintable():
        # Servers differ in what they take for upper and lower case beyond ASCII, and one that searches JSON finds
        # two characters for these.
        plain = [re.escape(part) for part in re.split(r'["\\]', search.keyword)]
        wanted["messages"] = {"$regex": ".{1,2}".join(plain), "$options": "i"}
    return wanted


def _matcher(search: Search) -> Callable[[Sequence[Any]], bool]:
    """Return whether a row of a block matches; as on SQLite, ASCII text folds the case of ASCII only."""
    start, end, level = bounds_of(search)
    sources = sources_of(search)
    keyword = search.keyword or ""
    folded = keyword.casefold()
    pattern = re.compile(re.escape(keyword), re.IGNORECASE | re.ASCII)

    def holds(message: str) -> bool:
        return pattern.search(message) is not None if keyword.isascii() else folded in message.casefold()

    def matches(row: Sequence[Any]) -> bool:
        _, source, time, grave, message, _ = row
        whose = not sources or source in sources
        return whose and start <= time <= end and grave >= level and holds(message)

    return matches
