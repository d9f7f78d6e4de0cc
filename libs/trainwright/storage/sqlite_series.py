"""The series port on SQLite, in the file and the transactions of a ``SqliteStore``.

One row a value, clustered by series: a history is one range scan, a tail a few short ones. The sequence is one for
all tasks. SQLite keeps NaN as NULL; here it comes back as NaN.
"""

import math
import sqlite3
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter

from trainwright.contracts.metric import MetricPoint
from trainwright.storage.document import Transaction
from trainwright.storage.numbered import above
from trainwright.storage.series import AttemptState, Fence, Logged, Tail, fence_of
from trainwright.storage.sqlite import SqliteStore, SqliteTransaction

SCHEMA = """
CREATE TABLE IF NOT EXISTS series_clock (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL);
INSERT OR IGNORE INTO series_clock VALUES (1, 0);
CREATE TABLE IF NOT EXISTS series_attempts (
  task_id TEXT, attempt INTEGER, since INTEGER NOT NULL, mark INTEGER, resume_step INTEGER, resumed_at INTEGER,
  last_step INTEGER, late INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (task_id, attempt)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS series (
  id INTEGER PRIMARY KEY, task_id TEXT NOT NULL, name TEXT NOT NULL, attempt INTEGER NOT NULL,
  first_step INTEGER NOT NULL, last_seq INTEGER NOT NULL, UNIQUE (task_id, name, attempt));
CREATE TABLE IF NOT EXISTS series_points (
  series INTEGER, seq INTEGER, step INTEGER NOT NULL, time REAL NOT NULL, value REAL,
  PRIMARY KEY (series, seq)) WITHOUT ROWID;
"""

PAGE = 20_000
"""Rows of one look at the reading connection, so that a long history does not hold up short questions."""

_TOUCH = """
INSERT INTO series (task_id, name, attempt, first_step, last_seq) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (task_id, name, attempt) DO UPDATE
SET first_step = min(first_step, excluded.first_step), last_seq = excluded.last_seq RETURNING id
"""


@dataclass(frozen=True, slots=True)
class _Part:
    """One attempt's share of a named series, and what counts of it."""

    id: int
    name: str
    attempt: int
    last_seq: int
    fence: Fence

    def where(self) -> tuple[str, list[int]]:
        clauses, values = ["series = ?"], [self.id]
        if self.fence.step is not None:
            clauses.append("step <= ?")
            values.append(self.fence.step)
        if self.fence.seq is not None:
            clauses.append("seq <= ?")
            values.append(self.fence.seq)
        return " AND ".join(clauses), values


class SqliteSeries:
    """Series beside the documents of one store; open the store with ``SCHEMA``."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    async def append(self, tx: Transaction, task_id: str, attempt: int, points: Sequence[MetricPoint]) -> int:
        connection = _connection(tx)
        self._note(connection, task_id, attempt, None)
        mark, newest = connection.execute(
            "SELECT coalesce(mark, -1), (SELECT max(attempt) FROM series_attempts WHERE task_id = :t)"
            " FROM series_attempts WHERE task_id = :t AND attempt = :a",
            {"t": task_id, "a": attempt},
        ).fetchone()
        fresh = above(mark, points)
        if not fresh:
            return 0
        first = _take(connection, len(fresh))
        ids = _touch(connection, task_id, attempt, fresh, first)
        connection.executemany(
            "INSERT INTO series_points (series, seq, step, time, value) VALUES (?, ?, ?, ?, ?)",
            [
                (ids[name], seq, point.step, point.time, value)
                for seq, point in enumerate(fresh, first)
                for name, value in point.values.items()
            ],
        )
        connection.execute(
            "UPDATE series_attempts SET mark = ?1, last_step = max(coalesce(last_step, ?2), ?2), late = late + ?3"
            " WHERE task_id = ?4 AND attempt = ?5",
            (fresh[-1].seq, max(p.step for p in fresh), len(fresh) if attempt < newest else 0, task_id, attempt),
        )
        return len(fresh)

    async def note_attempt(
        self, tx: Transaction, task_id: str, attempt: int, resume_step: int | None = None
    ) -> None:
        self._note(_connection(tx), task_id, attempt, resume_step)

    async def known(self, task_id: str) -> bool:
        return bool(await self._store.read(lambda c: _attempts(c, task_id)))

    async def names(self, task_id: str) -> list[str]:
        sql = "SELECT DISTINCT name FROM series WHERE task_id = ? ORDER BY name"
        return [name for (name,) in await self._store.read(lambda c: c.execute(sql, (task_id,)).fetchall())]

    async def latest(self, task_id: str) -> dict[str, float]:
        return await self._store.read(lambda c: _latest(c, task_id))

    async def points(
        self, task_id: str, name: str, start_step: int | None = None, end_step: int | None = None
    ) -> list[tuple[int, float]]:
        found: list[tuple[int, float]] = []
        steps = (-(2**63) if start_step is None else start_step, 2**63 - 1 if end_step is None else end_step)
        for part in await self._store.read(lambda c: _parts(c, task_id, [name])):
            rows: list[tuple[int, int, float | None]] = []
            while rows := await self._store.read(partial(_page, part=part, rows=rows, steps=steps)):
                found += [(step, _number(value)) for _, step, value in rows]
        found.sort(key=itemgetter(0))
        return found

    async def after(
        self, task_id: str, cursor: int, names: Collection[str] | None = None, limit: int = 500
    ) -> Tail:
        return await self._store.read(lambda c: _after(c, task_id, cursor, names, limit))

    async def head(self, task_id: str) -> int:
        return await self._store.read(_head)

    async def skip(self, task_id: str, newest: int) -> int:
        return await self._store.read(lambda c: _skip(c, task_id, newest))

    def _note(self, connection: sqlite3.Connection, task_id: str, attempt: int, resume_step: int | None) -> None:
        row = connection.execute(
            "SELECT resume_step FROM series_attempts WHERE task_id = ? AND attempt = ?", (task_id, attempt)
        ).fetchone()
        if row is not None and (resume_step is None or row[0] == resume_step):
            return
        seq = _take(connection, 1)
        connection.execute(
            "INSERT INTO series_attempts (task_id, attempt, since, resume_step, resumed_at) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT DO UPDATE SET resume_step = excluded.resume_step, resumed_at = excluded.resumed_at",
            (task_id, attempt, seq, resume_step, None if resume_step is None else seq),
        )


def _connection(tx: Transaction) -> sqlite3.Connection:
    if not isinstance(tx, SqliteTransaction):
        raise TypeError("series on SQLite share the transactions of a SqliteStore")
    return tx.connection


def _take(connection: sqlite3.Connection, count: int) -> int:
    """Return the first of so many new numbers of the sequence."""
    sql = "UPDATE series_clock SET seq = seq + ? RETURNING seq"
    return int(connection.execute(sql, (count,)).fetchone()[0]) - count + 1


def _touch(
    connection: sqlite3.Connection, task_id: str, attempt: int, points: Sequence[MetricPoint], first: int
) -> dict[str, int]:
    lowest: dict[str, int] = {}
    last: dict[str, int] = {}
    for seq, point in enumerate(points, first):
        for name in point.values:
            lowest[name] = min(point.step, lowest.get(name, point.step))
            last[name] = seq
    return {
        name: connection.execute(_TOUCH, (task_id, name, attempt, step, last[name])).fetchone()[0]
        for name, step in lowest.items()
    }


def _head(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT seq FROM series_clock").fetchone()[0])


def _attempts(connection: sqlite3.Connection, task_id: str) -> list[AttemptState]:
    sql = (
        "SELECT attempt, since, resume_step, resumed_at, last_step, late FROM series_attempts"
        " WHERE task_id = ? ORDER BY attempt"
    )
    return [AttemptState(*row) for row in connection.execute(sql, (task_id,))]


def _parts(connection: sqlite3.Connection, task_id: str, names: Collection[str] | None) -> list[_Part]:
    """Return the shares that count for anything, oldest attempt first."""
    attempts = _attempts(connection, task_id)
    wanted = "" if names is None else f" AND name IN ({', '.join('?' * len(names))})"
    rows = connection.execute(
        f"SELECT id, name, attempt, first_step, last_seq FROM series WHERE task_id = ?{wanted} ORDER BY attempt",
        (task_id, *(names or ())),
    ).fetchall()
    first_steps: dict[str, dict[int, int]] = {}
    for _, name, attempt, first_step, _ in rows:
        first_steps.setdefault(name, {})[attempt] = first_step
    parts = []
    for id_, name, attempt, first_step, last_seq in rows:
        fence = fence_of(attempt, first_steps[name], attempts)
        if fence.step is None or first_step <= fence.step:
            parts.append(_Part(id_, name, attempt, last_seq, fence))
    return parts


def _page(
    connection: sqlite3.Connection,
    *,
    part: _Part,
    rows: Sequence[tuple[int, int, float | None]],
    steps: tuple[int, int],
) -> list[tuple[int, int, float | None]]:
    """Return the rows that follow those of the last page."""
    where, values = part.where()
    sql = (
        f"SELECT seq, step, value FROM series_points WHERE {where} AND seq > ? AND step BETWEEN ? AND ?"
        " ORDER BY seq LIMIT ?"
    )
    last = rows[-1][0] if rows else 0
    return connection.execute(sql, (*values, last, *steps, PAGE)).fetchall()


def _latest(connection: sqlite3.Connection, task_id: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in reversed(_parts(connection, task_id, None)):
        if part.name not in found:
            where, values = part.where()
            sql = f"SELECT value FROM series_points WHERE {where} ORDER BY seq DESC LIMIT 1"
            if row := connection.execute(sql, values).fetchone():
                found[part.name] = _number(row[0])
    return dict(sorted(found.items()))


def _after(
    connection: sqlite3.Connection, task_id: str, cursor: int, names: Collection[str] | None, limit: int
) -> Tail:
    connection.execute("BEGIN")
    try:
        head, attempts = _head(connection), _attempts(connection, task_id)
        parts = [part for part in _parts(connection, task_id, names) if part.last_seq > cursor]
        rows: list[tuple[int, int, float, float | None, _Part]] = []
        reached = head
        for part in parts:
            where, values = part.where()
            sql = (
                f"SELECT seq, step, time, value FROM series_points WHERE {where} AND seq > ? ORDER BY seq LIMIT ?"
            )
            found = connection.execute(sql, (*values, cursor, limit)).fetchall()
            rows += [(*row, part) for row in found]
            if len(found) == limit:
                reached = min(reached, found[-1][0])
    finally:
        connection.execute("COMMIT")
    records = _grouped(rows, reached)[:limit]
    if len(records) == limit:
        reached = min(reached, records[-1].seq)
    return Tail(records, reached, attempts, more=reached < head)


def _grouped(rows: list[tuple[int, int, float, float | None, _Part]], reached: int) -> list[Logged]:
    """Return values of one number as one record, in order, up to the number that every part was read to."""
    records: dict[int, Logged] = {}
    values: dict[int, dict[str, float]] = {}
    for seq, step, time, value, part in rows:
        if seq <= reached:
            if seq not in records:
                records[seq] = Logged(seq, part.attempt, step, time, values.setdefault(seq, {}))
            values[seq][part.name] = _number(value)
    return [records[seq] for seq in sorted(records)]


def _skip(connection: sqlite3.Connection, task_id: str, newest: int) -> int:
    sql = "SELECT id FROM series WHERE task_id = ? ORDER BY last_seq DESC LIMIT 1"
    longest = connection.execute(sql, (task_id,)).fetchone()
    if longest is None:
        return _head(connection)
    sql = "SELECT seq FROM series_points WHERE series = ? ORDER BY seq DESC LIMIT 1 OFFSET ?"
    row = connection.execute(sql, (longest[0], newest)).fetchone()
    return 0 if row is None else int(row[0])


def _number(value: float | None) -> float:
    return math.nan if value is None else value
