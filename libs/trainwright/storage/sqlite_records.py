"""The records port on SQLite, in the file and the transactions of a ``SqliteStore``.

Records are clustered by task, so that a search reads only its own task, in order. For every 4,096 of them a block
remembers the times and the gravest level that it spans: a search skips blocks that cannot match, which serves
level and time without an index on every row (small materialised aggregates, Moerkotte 1998).
"""

import re
import sqlite3
from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Any

from trainwright.contracts.log import LogEntry, LogRecord, LogStream
from trainwright.storage.document import Transaction
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
from trainwright.storage.sqlite import SqliteStore, SqliteTransaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS log_tasks (
  id INTEGER PRIMARY KEY, task_id TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL DEFAULT 0,
  dropped INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS log_streams (
  task INTEGER, attempt INTEGER, stream TEXT, mark INTEGER NOT NULL,
  PRIMARY KEY (task, attempt, stream)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_losses (
  task INTEGER, attempt INTEGER, at INTEGER NOT NULL, PRIMARY KEY (task, attempt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_member_losses (
  task INTEGER, attempt INTEGER, rank INTEGER, at INTEGER NOT NULL,
  PRIMARY KEY (task, attempt, rank)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_records (
  task INTEGER, seq INTEGER, attempt INTEGER NOT NULL, stream TEXT NOT NULL, time INTEGER NOT NULL,
  level INTEGER NOT NULL, message TEXT NOT NULL, extra TEXT, PRIMARY KEY (task, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_blocks (
  task INTEGER, block INTEGER, first INTEGER NOT NULL, last INTEGER NOT NULL, gravest INTEGER NOT NULL,
  PRIMARY KEY (task, block)) WITHOUT ROWID;
"""

BLOCK_BITS = 12
BLOCKS = 32
"""Blocks of one look at the reading connection, so that a long search does not hold up short questions."""


class SqliteRecords:
    """Log records beside the documents of one store; open the store with ``SCHEMA``."""

    def __init__(self, store: SqliteStore) -> None:
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
        connection, source = _connection(tx), source_of(stream, rank)
        task = _task(connection, task_id)
        fresh = above(_mark(connection, task, attempt, source), records)
        if not fresh:
            return 0
        connection.execute(
            "INSERT INTO log_streams VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET mark = excluded.mark",
            (task, attempt, source, fresh[-1].seq),
        )
        lost = _lost(connection, task, attempt, rank)
        kept = [record for record in fresh if lost is None or micros(record.time) <= lost]
        first = _take(connection, task, len(kept), len(fresh) - len(kept))
        rows = [
            (task, seq, attempt, source, micros(r.time), LEVELS[r.level], r.message, carried_by(r))
            for seq, r in enumerate(kept, first)
        ]
        connection.executemany("INSERT INTO log_records VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)
        _summarise(connection, task, rows)
        return len(kept)

    async def note_lost(
        self, tx: Transaction, task_id: str, attempt: int, at: datetime, rank: int | None = None
    ) -> None:
        connection = _connection(tx)
        of_all = "log_losses VALUES (?, ?, ?)"
        of_one = "log_member_losses (task, attempt, at, rank) VALUES (?, ?, ?, ?)"
        connection.execute(
            f"INSERT INTO {of_all if rank is None else of_one}"
            " ON CONFLICT DO UPDATE SET at = min(at, excluded.at)",
            (_task(connection, task_id), attempt, micros(at), *(() if rank is None else (rank,))),
        )

    async def known(self, task_id: str) -> bool:
        return await self._store.read(lambda c: _found(c, task_id)) is not None

    async def dropped(self, task_id: str) -> int:
        sql = "SELECT coalesce(max(dropped), 0) FROM log_tasks WHERE task_id = ?"
        return await self._store.read(lambda c: int(c.execute(sql, (task_id,)).fetchone()[0]))

    async def find(self, task_id: str, search: Search, *, cursor: int = 0, limit: int = 100) -> Found:
        entries: list[LogEntry] = []
        end = False
        while not end and len(entries) < limit:
            look = partial(_look, task_id=task_id, search=search, cursor=cursor, limit=limit - len(entries))
            found, cursor, end = await self._store.read(look)
            entries += found
        return Found(entries, cursor)


def _connection(tx: Transaction) -> sqlite3.Connection:
    if not isinstance(tx, SqliteTransaction):
        raise TypeError("records on SQLite share the transactions of a SqliteStore")
    return tx.connection


def _task(connection: sqlite3.Connection, task_id: str) -> int:
    connection.execute("INSERT INTO log_tasks (task_id) VALUES (?) ON CONFLICT DO NOTHING", (task_id,))
    return int(connection.execute("SELECT id FROM log_tasks WHERE task_id = ?", (task_id,)).fetchone()[0])


def _found(connection: sqlite3.Connection, task_id: str) -> tuple[int, int] | None:
    row = connection.execute("SELECT id, seq FROM log_tasks WHERE task_id = ?", (task_id,)).fetchone()
    return None if row is None else (row[0], row[1])


def _mark(connection: sqlite3.Connection, task: int, attempt: int, source: str) -> int:
    sql = "SELECT mark FROM log_streams WHERE task = ? AND attempt = ? AND stream = ?"
    row = connection.execute(sql, (task, attempt, source)).fetchone()
    return -1 if row is None else int(row[0])


def _lost(connection: sqlite3.Connection, task: int, attempt: int, rank: int | None) -> int | None:
    sql = (
        "SELECT min(at) FROM (SELECT at FROM log_losses WHERE task = ?1 AND attempt = ?2 UNION ALL"
        " SELECT at FROM log_member_losses WHERE task = ?1 AND attempt = ?2 AND rank = ?3)"
    )
    (at,) = connection.execute(sql, (task, attempt, rank)).fetchone()
    return None if at is None else int(at)


def _take(connection: sqlite3.Connection, task: int, count: int, dropped: int) -> int:
    """Return the first of so many new positions in a task."""
    sql = "UPDATE log_tasks SET seq = seq + ?, dropped = dropped + ? WHERE id = ? RETURNING seq"
    return int(connection.execute(sql, (count, dropped, task)).fetchone()[0]) - count + 1


def _summarise(connection: sqlite3.Connection, task: int, rows: Sequence[tuple[Any, ...]]) -> None:
    blocks: dict[int, tuple[int, int, int]] = {}
    for row in rows:
        block, time, level = row[1] >> BLOCK_BITS, row[4], row[5]
        first, last, gravest = blocks.get(block, (time, time, level))
        blocks[block] = (min(first, time), max(last, time), max(gravest, level))
    connection.executemany(
        "INSERT INTO log_blocks VALUES (?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " first = min(first, excluded.first), last = max(last, excluded.last),"
        " gravest = max(gravest, excluded.gravest)",
        [(task, block, *summary) for block, summary in blocks.items()],
    )


def _look(
    connection: sqlite3.Connection, *, task_id: str, search: Search, cursor: int, limit: int
) -> tuple[list[LogEntry], int, bool]:
    """Return what a few blocks hold, the position reached, and whether that is the end."""
    connection.execute("BEGIN")
    try:
        task, head = _found(connection, task_id) or (0, 0)
        check_cursor(cursor, head)
        where, values = _conditions(connection, search)
        sql = (
            "SELECT seq, attempt, stream, time, level, message, extra FROM log_records"
            f" WHERE task = ? AND seq > ? AND seq < ?{where} ORDER BY seq LIMIT ?"
        )
        blocks = _blocks(connection, task, cursor, search)
        entries: list[LogEntry] = []
        for block in blocks:
            after, before = max(cursor, (block << BLOCK_BITS) - 1), (block + 1) << BLOCK_BITS
            rows = connection.execute(sql, (task, after, before, *values, limit - len(entries))).fetchall()
            entries += [entry_of(*row[1:]) for row in rows]
            if len(entries) == limit:
                return entries, int(rows[-1][0]), False
        if len(blocks) < BLOCKS:
            return entries, head, True
        return entries, min(head, ((blocks[-1] + 1) << BLOCK_BITS) - 1), False
    finally:
        connection.execute("COMMIT")


def _blocks(connection: sqlite3.Connection, task: int, cursor: int, search: Search) -> list[int]:
    start, end, level = bounds_of(search)
    sql = (
        "SELECT block FROM log_blocks WHERE task = ? AND block >= ? AND last >= ? AND first <= ? AND gravest >= ?"
        " ORDER BY block LIMIT ?"
    )
    first = (cursor + 1) >> BLOCK_BITS
    return [block for (block,) in connection.execute(sql, (task, first, start, end, level, BLOCKS))]


def _conditions(connection: sqlite3.Connection, search: Search) -> tuple[str, list[Any]]:
    start, end, level = bounds_of(search)
    sources = sources_of(search)
    whose = f" AND stream IN ({', '.join('?' * len(sources))})" if sources else ""
    where, values = f" AND level >= ? AND time BETWEEN ? AND ?{whose}", [level, start, end, *sources]
    if not search.keyword:
        return where, values
    if search.keyword.isascii():
        escaped = re.sub(r"([\\%_])", r"\\\1", search.keyword)
        return where + r" AND message LIKE ? ESCAPE '\'", [*values, f"%{escaped}%"]
    # SQLite knows upper and lower case of ASCII only.
    wanted = search.keyword.casefold()
    connection.create_function("holds_wanted", 1, lambda message: wanted in message.casefold())
    return where + " AND holds_wanted(message)", values
