"""The document port on SQLite: one file a service, one writer.

Statements of a transaction, and reads of one document, run on the loop's thread, because each takes microseconds
and a thread hop would cost more; the commit, which waits for the disk, and every other read run on its threads.
WAL, ``synchronous=FULL`` and ``BEGIN IMMEDIATE``: what was committed survives a power cut. What need not be
durable is committed with ``NORMAL``: it is in the file, and on the disk with the next that is.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson

from trainwright import crash
from trainwright.contracts.base import iso
from trainwright.contracts.errors import StoreBusy, StoreUnavailable
from trainwright.storage import sqlite_documents as documents
from trainwright.storage import versions
from trainwright.storage.commits import Commits
from trainwright.storage.document import Collection, Document, LogPosition, OutboxRow, Page, Scalar, Where
from trainwright.storage.fence import FENCE, LeaseState

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
CREATE TABLE IF NOT EXISTS lease (
  one INTEGER PRIMARY KEY CHECK (one = 1), holder TEXT, epoch INTEGER NOT NULL, beat INTEGER NOT NULL);
"""

_NOT_ANSWERING = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_INTERRUPT,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_PROTOCOL,
        sqlite3.SQLITE_NOTADB,
    }
)
"""What the engine's state is to blame for. Other errors are a statement's own: waiting would not mend them."""


def _outbox_row(row: tuple[Any, ...]) -> OutboxRow:
    seq, id_, kind, topic, key, headers, value, tries = row
    return OutboxRow(id_, kind, topic, key, [(n, v) for n, v in orjson.loads(headers)], value, seq, tries)


def _roll_back(writer: sqlite3.Connection) -> None:
    # On the loop's thread: it does not wait for the disk. There may be nothing left to roll back.
    if writer.in_transaction:
        with contextlib.suppress(sqlite3.Error):
            writer.rollback()


def _lease(connection: sqlite3.Connection) -> LeaseState:
    row = connection.execute("SELECT holder, epoch, beat FROM lease").fetchone()
    return LeaseState(*row) if row else LeaseState()


def _check_fence(writer: sqlite3.Connection) -> None:
    fence = FENCE.get()
    if fence is not None and _lease(writer).epoch != fence.epoch:
        raise fence.fail()


class SqliteTransaction:
    """A transaction that is open; ``connection`` is for ports that share this engine's file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.added_outbox = False

    async def get(self, collection: str, id: str) -> Document | None:
        return documents.get(self.connection, collection, id)

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        return documents.find(self.connection, collection, where, sort, limit, cursor)

    async def count(self, collection: str, where: Where | None = None) -> int:
        return documents.count(self.connection, collection, where)

    async def put(
        self, collection: str, id: str, document: Mapping[str, Any], *, expect: int | None = None
    ) -> None:
        if expect is not None:
            versions.check(await self.get(collection, id), expect, f"{collection} {id}")
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
        text = orjson.dumps([position.cluster_id, position.offsets, position.topics]).decode()
        self.connection.execute("INSERT OR REPLACE INTO log_position VALUES (1, ?)", (text,))


class SqliteStore:
    """A service's store in one SQLite file; ``schema`` holds tables of other ports in the same file."""

    def __init__(self, path: Path, collections: Sequence[Collection], schema: str = "") -> None:
        self._path = path
        self._collections = collections
        self._schema = schema
        self._writing = asyncio.Lock()
        self._commits = Commits()
        self._writer_thread, self._reader_thread = self._threads()
        self._writer: sqlite3.Connection | None = None
        self._reader: sqlite3.Connection | None = None
        self._looker: sqlite3.Connection | None = None
        """Of the loop's thread: it sees what is committed, whatever the writer is at."""
        self._data_version = 0

    async def open(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._writer.executescript(self._ddl())
            self._reader, self._looker = self._connect(), self._connect()
            for connection in (self._reader, self._looker):
                connection.execute("PRAGMA query_only = ON")
        except (sqlite3.Error, OSError) as error:
            await self.close()
            raise StoreUnavailable(f"cannot open the store {self._path}: {error}") from error

    async def close(self) -> None:
        async with self._writing:
            if self._looker is not None:
                self._looker.close()
            others = ((self._reader, self._reader_thread), (self._writer, self._writer_thread))
            self._reader = self._writer = self._looker = None  # who comes now is told that it is closed
            self._writer_thread, self._reader_thread = self._threads()
            # Each on its own thread: behind what is still being read or written there.
            for connection, thread in others:
                if connection is not None:
                    await self._on(thread, connection.close)
                thread.shutdown()

    @contextlib.asynccontextmanager
    async def transaction(self, *, durable: bool = True) -> AsyncIterator[SqliteTransaction]:
        await self._writing.acquire()
        commit: asyncio.Task[None] | None = None
        try:
            writer = self._opened(self._writer)
            transaction = SqliteTransaction(writer)
            try:
                with self._answering("written"):
                    writer.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                    writer.execute("BEGIN IMMEDIATE")
                    _check_fence(writer)
                    crash.point("sqlite.began")
                    yield transaction
                crash.point("sqlite.written")
            except BaseException:
                _roll_back(writer)
                raise
            # A task of its own, which ends with letting go of the lock: however often the caller is cancelled,
            # nobody else writes before this commit is through.
            commit = asyncio.create_task(self._commit(writer, transaction))
        finally:
            if commit is None:
                self._writing.release()
        await asyncio.shield(commit)

    async def get(self, collection: str, id: str) -> Document | None:
        looker = self._opened(self._looker)
        with self._answering("read"):
            return documents.get(looker, collection, id)

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        return await self.read(lambda c: documents.find(c, collection, where, sort, limit, cursor))

    async def count(self, collection: str, where: Where | None = None) -> int:
        return await self.read(lambda c: documents.count(c, collection, where))

    async def outbox_pending(self, kind: str, limit: int) -> list[OutboxRow]:
        sql = (
            "SELECT seq, id, kind, topic, key, headers, value, tries FROM outbox"
            " WHERE kind = ? AND sent_at IS NULL ORDER BY seq LIMIT ?"
        )
        looker = self._opened(self._looker)
        with self._answering("read"):
            return [_outbox_row(row) for row in looker.execute(sql, (kind, limit))]

    async def outbox_depth(self) -> int:
        sql, looker = "SELECT count(*) FROM outbox WHERE sent_at IS NULL", self._opened(self._looker)
        with self._answering("read"):
            return int(looker.execute(sql).fetchone()[0])

    async def outbox_again(self, since: datetime) -> int:
        sql = "UPDATE outbox SET sent_at = NULL WHERE kind = 'event' AND sent_at >= ?"
        count = await self._write(sql, iso(since))
        self._commits.outbox.set()
        return count

    async def outbox_sweep(self, before: datetime) -> int:
        return await self._write("DELETE FROM outbox WHERE sent_at < ?", iso(before))

    async def note_try(self, seq: int) -> None:
        await self._write("UPDATE outbox SET tries = tries + 1 WHERE seq = ?", seq)

    async def log_position(self) -> LogPosition:
        row = await self.read(lambda c: c.execute("SELECT position FROM log_position").fetchone())
        return LogPosition(*orjson.loads(row[0])) if row else LogPosition()

    async def outbox_added(self) -> None:
        await self._commits.outbox_added()

    def next_commit(self) -> Awaitable[object]:
        return self._commits.next

    async def look_for_commits(self) -> None:
        seen = await self.read(lambda c: int(c.execute("PRAGMA data_version").fetchone()[0]))
        if seen != self._data_version:
            self._data_version = seen
            self._commits.done(added_outbox=True)

    async def lease(self) -> LeaseState:
        return await self.read(_lease)

    async def take_lease(self, seen: LeaseState, holder: str) -> bool:
        async with self.transaction() as tx:
            if _lease(tx.connection) != seen:
                return False
            row = (holder, seen.epoch + 1)
            tx.connection.execute(
                "INSERT OR REPLACE INTO lease (one, holder, epoch, beat) VALUES (1, ?, ?, 0)", row
            )
        return True

    async def renew_lease(self, epoch: int) -> bool:
        return await self._write("UPDATE lease SET beat = beat + 1 WHERE epoch = ?", epoch) == 1

    async def release_lease(self, epoch: int) -> None:
        await self._write("UPDATE lease SET holder = NULL WHERE epoch = ?", epoch)

    async def read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """Ask the reading connection on its thread; for this engine's other ports too."""
        reader = self._opened(self._reader)
        with self._answering("read"):
            return await self._on(self._reader_thread, lambda: question(reader))

    async def _write(self, sql: str, value: Scalar) -> int:
        async with self.transaction() as tx:
            return tx.connection.execute(sql, (value,)).rowcount

    async def _commit(self, writer: sqlite3.Connection, transaction: SqliteTransaction) -> None:
        try:
            with self._answering("written"):
                await self._on(self._writer_thread, writer.commit)
        except BaseException:
            _roll_back(writer)
            raise
        else:
            crash.point("sqlite.committed")
            self._commits.done(added_outbox=transaction.added_outbox)
        finally:
            self._writing.release()

    @contextlib.contextmanager
    def _answering(self, done: str) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)
            if code is not None and code & 0xFF not in _NOT_ANSWERING:
                raise
            kind = StoreBusy if code == sqlite3.SQLITE_BUSY else StoreUnavailable
            raise kind(f"the store {self._path} cannot be {done}: {error}") from error

    def _opened(self, connection: sqlite3.Connection | None) -> sqlite3.Connection:
        if connection is None:
            raise StoreUnavailable(f"the store {self._path} is closed")
        return connection

    def _threads(self) -> tuple[ThreadPoolExecutor, ThreadPoolExecutor]:
        stem = self._path.stem
        return ThreadPoolExecutor(1, f"store-{stem}-write"), ThreadPoolExecutor(1, f"store-{stem}-read")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=1, isolation_level=None, check_same_thread=False, cached_statements=512
        )
        connection.execute("PRAGMA journal_mode = WAL")
        return connection

    def _ddl(self) -> str:
        return "\n".join([_SCHEMA, self._schema, *map(documents.collection_ddl, self._collections)])

    async def _on(self, thread: ThreadPoolExecutor, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, call)
