"""The document port on SQLite: one file a service, one writer.

Statements of a transaction run on the loop's thread, because each takes microseconds and a thread hop would
cost more; the commit, which waits for the disk, and every read outside a transaction run on its threads.
WAL, ``synchronous=FULL`` and ``BEGIN IMMEDIATE``: what was committed survives a power cut.
"""

import asyncio
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from trainwright.contracts.base import iso
from trainwright.contracts.errors import StoreUnavailable, VersionConflict
from trainwright.storage.document import (
    Collection,
    Document,
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

T = TypeVar("T")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS outbox (
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, kind TEXT NOT NULL, topic TEXT NOT NULL,
  key TEXT NOT NULL, headers TEXT NOT NULL, value BLOB NOT NULL, tries INTEGER NOT NULL DEFAULT 0,
  sent_at TEXT);
CREATE INDEX IF NOT EXISTS outbox_pending ON outbox (kind, seq) WHERE sent_at IS NULL;
CREATE INDEX IF NOT EXISTS outbox_sent ON outbox (sent_at) WHERE sent_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS inbox (key TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS guards (
  scope TEXT, subject TEXT, major INTEGER NOT NULL, minor INTEGER NOT NULL, PRIMARY KEY (scope, subject)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS log_position (one INTEGER PRIMARY KEY CHECK (one = 1), position TEXT NOT NULL);
"""

_PATH = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")
_RANGE_SIGNS = (("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<="))


def _column(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is not a path of a document")
    return "id" if path == "id" else f"json_extract(doc, '$.{path}')"


def _conditions(where: Where | None) -> tuple[list[str], list[Scalar]]:
    clauses: list[str] = []
    values: list[Scalar] = []
    for path, wanted in (where or {}).items():
        column = _column(path)
        if isinstance(wanted, Range):
            for name, sign in _RANGE_SIGNS:
                if (bound := getattr(wanted, name)) is not None:
                    clauses.append(f"{column} {sign} ?")
                    values.append(bound)
        elif isinstance(wanted, In):
            clauses.append(f"{column} IN ({', '.join('?' * len(wanted.values))})")
            values.extend(wanted.values)
        else:
            clauses.append(f"{column} IS ?")
            values.append(wanted)
    return clauses, values


def _where_sql(clauses: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(clauses)}" if clauses else ""


def _get(connection: sqlite3.Connection, collection: str, id: str) -> Document | None:
    row = connection.execute(f'SELECT doc FROM "c_{collection}" WHERE id = ?', (id,)).fetchone()
    return None if row is None else orjson.loads(row[0])


def _find(
    connection: sqlite3.Connection,
    collection: str,
    where: Where | None,
    sort: str,
    limit: int,
    cursor: str | None,
) -> Page:
    column, descending = _column(sort.removeprefix("-")), sort.startswith("-")
    clauses, values = _conditions(where)
    if cursor is not None:
        clauses.append(f"({column}, id) {'<' if descending else '>'} (?, ?)")
        values.extend(decode_cursor(cursor, 2))
    order = "DESC" if descending else "ASC"
    rows = connection.execute(
        f'SELECT id, doc, {column} FROM "c_{collection}"{_where_sql(clauses)}'
        f" ORDER BY {column} {order}, id {order} LIMIT ?",
        (*values, limit + 1),
    ).fetchall()
    more = len(rows) > limit
    rows = rows[:limit]
    next_cursor = encode_cursor([rows[-1][2], rows[-1][0]]) if more and rows else None
    return Page([orjson.loads(row[1]) for row in rows], next_cursor)


def _count(connection: sqlite3.Connection, collection: str, where: Where | None) -> int:
    clauses, values = _conditions(where)
    row = connection.execute(f'SELECT count(*) FROM "c_{collection}"{_where_sql(clauses)}', values).fetchone()
    return int(row[0])


def _outbox_row(row: tuple[Any, ...]) -> OutboxRow:
    seq, id_, kind, topic, key, headers, value, tries = row
    return OutboxRow(id_, kind, topic, key, [(n, v) for n, v in orjson.loads(headers)], value, seq, tries)


class SqliteTransaction:
    """A transaction that is open; ``connection`` is for ports that share this engine's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.added_outbox = False

    async def get(self, collection: str, id: str) -> Document | None:
        return _get(self.connection, collection, id)

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        return _find(self.connection, collection, where, sort, limit, cursor)

    async def count(self, collection: str, where: Where | None = None) -> int:
        return _count(self.connection, collection, where)

    async def put(
        self, collection: str, id: str, document: Mapping[str, Any], *, expect: int | None = None
    ) -> None:
        if expect is not None:
            stored = await self.get(collection, id)
            version = 0 if stored is None else stored.get("version")
            if version != expect:
                raise VersionConflict(f"{collection} {id} is at version {version}, not {expect}")
        self.connection.execute(
            f'INSERT INTO "c_{collection}" (id, doc) VALUES (?, ?)'
            " ON CONFLICT (id) DO UPDATE SET doc = excluded.doc",
            (id, orjson.dumps(document).decode()),
        )

    async def delete(self, collection: str, id: str) -> None:
        self.connection.execute(f'DELETE FROM "c_{collection}" WHERE id = ?', (id,))

    async def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        self.connection.executemany(
            "INSERT INTO outbox (id, kind, topic, key, headers, value) VALUES (?, ?, ?, ?, ?, ?)",
            [(r.id, r.kind, r.topic, r.key, orjson.dumps(r.headers).decode(), r.value) for r in rows],
        )
        self.added_outbox = self.added_outbox or bool(rows)

    async def first_time(self, key: str) -> bool:
        done = self.connection.execute("INSERT INTO inbox (key) VALUES (?) ON CONFLICT DO NOTHING", (key,))
        return done.rowcount == 1

    async def newer(self, scope: str, subject: str, order: tuple[int, int]) -> bool:
        done = self.connection.execute(
            "INSERT INTO guards (scope, subject, major, minor) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (scope, subject) DO UPDATE SET major = excluded.major, minor = excluded.minor"
            " WHERE (excluded.major, excluded.minor) > (guards.major, guards.minor)",
            (scope, subject, *order),
        )
        return done.rowcount == 1

    async def mark_sent(self, seqs: Sequence[int], at: datetime) -> None:
        moment = iso(at)
        self.connection.executemany("UPDATE outbox SET sent_at = ? WHERE seq = ?", [(moment, s) for s in seqs])

    async def set_log_position(self, position: LogPosition) -> None:
        text = orjson.dumps([position.cluster_id, dict(position.offsets)]).decode()
        self.connection.execute("INSERT OR REPLACE INTO log_position VALUES (1, ?)", (text,))


class SqliteStore:
    """A service's store in one SQLite file; ``schema`` holds tables of other ports in the same file."""

    def __init__(self, path: Path, collections: Sequence[Collection], schema: str = "") -> None:
        self._path = path
        self._collections = collections
        self._schema = schema
        self._writing = asyncio.Lock()
        self._added = asyncio.Event()
        self._committed = asyncio.Event()
        self._writer_thread = ThreadPoolExecutor(1, f"store-{path.stem}-write")
        self._reader_thread = ThreadPoolExecutor(1, f"store-{path.stem}-read")
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None

    async def open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.executescript(self._ddl())
            self._reader = self._connect()
            self._reader.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, OSError) as error:
            raise StoreUnavailable(f"cannot open the store {self._path}: {error}") from error

    async def close(self) -> None:
        async with self._writing:
            for connection in (self._reader, self._writer):
                if connection is not None:
                    connection.close()
            self._reader = self._writer = None
        self._writer_thread.shutdown()
        self._reader_thread.shutdown()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[SqliteTransaction]:
        async with self._writing:
            writer = self._writer
            if writer is None:
                raise StoreUnavailable(f"the store {self._path} is closed")
            transaction = SqliteTransaction(writer)
            try:
                writer.execute("BEGIN IMMEDIATE")
                yield transaction
                # Shielded: a cancelled caller must not leave the next one a half-done commit.
                await asyncio.shield(self._on(self._writer_thread, writer.commit))
            except sqlite3.Error as error:
                raise StoreUnavailable(f"the store {self._path} cannot be written: {error}") from error
            finally:
                await self._settle(writer)
            if transaction.added_outbox:
                self._added.set()
            self._committed.set()
            self._committed = asyncio.Event()

    async def get(self, collection: str, id: str) -> Document | None:
        return await self.read(lambda c: _get(c, collection, id))

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        return await self.read(lambda c: _find(c, collection, where, sort, limit, cursor))

    async def count(self, collection: str, where: Where | None = None) -> int:
        return await self.read(lambda c: _count(c, collection, where))

    async def outbox_pending(self, kind: str, limit: int) -> list[OutboxRow]:
        sql = (
            "SELECT seq, id, kind, topic, key, headers, value, tries FROM outbox"
            " WHERE kind = ? AND sent_at IS NULL ORDER BY seq LIMIT ?"
        )
        rows = await self.read(lambda c: c.execute(sql, (kind, limit)).fetchall())
        return [_outbox_row(row) for row in rows]

    async def outbox_depth(self) -> int:
        sql = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
        return await self.read(lambda c: int(c.execute(sql).fetchone()[0]))

    async def outbox_again(self, since: datetime) -> int:
        sql = "UPDATE outbox SET sent_at = NULL WHERE kind = 'event' AND sent_at >= ?"
        count = await self._write(sql, iso(since))
        self._added.set()
        return count

    async def outbox_sweep(self, before: datetime) -> int:
        return await self._write("DELETE FROM outbox WHERE sent_at < ?", iso(before))

    async def note_try(self, seq: int) -> None:
        await self._write("UPDATE outbox SET tries = tries + 1 WHERE seq = ?", seq)

    async def log_position(self) -> LogPosition:
        row = await self.read(lambda c: c.execute("SELECT position FROM log_position").fetchone())
        return LogPosition(*orjson.loads(row[0])) if row else LogPosition()

    async def outbox_added(self) -> None:
        await self._added.wait()
        self._added.clear()

    def next_commit(self) -> Awaitable[Any]:
        return self._committed.wait()

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask the reading connection on its thread; for this engine's other ports too."""
        reader = self._reader
        if reader is None:
            raise StoreUnavailable(f"the store {self._path} is closed")
        try:
            return await self._on(self._reader_thread, lambda: question(reader))
        except sqlite3.Error as error:
            raise StoreUnavailable(f"the store {self._path} cannot be read: {error}") from error

    async def _write(self, sql: str, value: Scalar) -> int:
        async with self.transaction() as tx:
            return tx.connection.execute(sql, (value,)).rowcount

    async def _settle(self, writer: sqlite3.Connection) -> None:
        # A commit that was cancelled is still running on the writer's thread: wait behind it, then roll back
        # what is left. Shielded for the same reason.
        if writer.in_transaction:
            await asyncio.shield(self._on(self._writer_thread, writer.rollback))

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=5, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        return connection

    def _ddl(self) -> str:
        lines = [_SCHEMA, self._schema]
        for collection in self._collections:
            table = f'"c_{collection.name}"'
            lines.append(f"CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, doc TEXT NOT NULL);")
            lines += [
                f'CREATE INDEX IF NOT EXISTS "c_{collection.name}.{path}" ON {table} ({_column(path)}, id);'
                for path in collection.indexes
            ]
        return "\n".join(lines)

    async def _on(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
