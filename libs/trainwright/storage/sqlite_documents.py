"""Documents as rows of SQLite tables: how a question of the port becomes SQL. Not here: transactions, threads."""

import math
import re
import sqlite3
from collections.abc import Sequence
from typing import Any

import orjson

from trainwright.storage.document import (
    Collection,
    Document,
    Has,
    In,
    Page,
    Range,
    Scalar,
    Where,
    decode_cursor,
    encode_cursor,
)

_PATH = re.compile(r"[a-z_][a-z0-9_]*(\.[a-z_][a-z0-9_]*)*")
_RANGE_SIGNS = (("gt", ">"), ("gte", ">="), ("lt", "<"), ("lte", "<="))


def collection_ddl(collection: Collection) -> str:
    """Return the statements that create what is missing of a collection."""
    table = f'"c_{collection.name}"'
    lines = [f"CREATE TABLE IF NOT EXISTS {table} (id TEXT PRIMARY KEY, doc TEXT NOT NULL);"]
    lines += [
        f'CREATE INDEX IF NOT EXISTS "c_{collection.name}.{"+".join(paths)}" ON {table}'
        f" ({', '.join(map(_column, paths))}, id);"
        for paths in collection.index_paths()
    ]
    return "\n".join(lines)


def get(connection: sqlite3.Connection, collection: str, id: str) -> Document | None:
    """Return a document, or None."""
    row = connection.execute(f'SELECT doc FROM "c_{collection}" WHERE id = ?', (id,)).fetchone()
    return None if row is None else orjson.loads(row[0])


def find(
    connection: sqlite3.Connection,
    collection: str,
    where: Where | None,
    sort: str,
    limit: int,
    cursor: str | None,
) -> Page:
    """Return the documents that match, in order, from the cursor on."""
    column, descending = _column(sort.removeprefix("-")), sort.startswith("-")
    clauses, values = _conditions(where)
    of_list = f"{collection} {sort}"
    questions: list[tuple[str, list[Scalar]]] = [("", [])]
    if cursor is not None:
        questions = _after(column, descending, *decode_cursor(cursor, of_list))
    order = "DESC" if descending else "ASC"
    rows: list[tuple[Any, ...]] = []
    for clause, more_values in questions:
        where_sql = _where_sql([*clauses, clause] if clause else clauses)
        sql = (
            f'SELECT id, doc, {column} FROM "c_{collection}"{where_sql}'
            f" ORDER BY {column} {order}, id {order} LIMIT ?"
        )
        rows += connection.execute(sql, (*values, *more_values, limit + 1 - len(rows))).fetchall()
    more, rows = len(rows) > limit, rows[:limit]
    next_cursor = encode_cursor(rows[-1][2], rows[-1][0], of_list) if more and rows else None
    return Page([orjson.loads(row[1]) for row in rows], next_cursor)


def count(connection: sqlite3.Connection, collection: str, where: Where | None) -> int:
    """Return how many documents match."""
    clauses, values = _conditions(where)
    row = connection.execute(f'SELECT count(*) FROM "c_{collection}"{_where_sql(clauses)}', values).fetchone()
    return int(row[0])


def _column(path: str) -> str:
    if not _PATH.fullmatch(path):
        raise ValueError(f"{path!r} is not a path of a document")
    return "id" if path == "id" else f"json_extract(doc, '$.{path}')"


def _bound(value: Scalar) -> Scalar:
    # No stored number is outside of 64 bits; SQLite would refuse to compare with one that is.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return math.copysign(math.inf, value)
    return value


def _conditions(where: Where | None) -> tuple[list[str], list[Scalar]]:
    clauses: list[str] = []
    values: list[Scalar] = []
    for path, wanted in (where or {}).items():
        column = _column(path)
        if isinstance(wanted, Range):
            for name, sign in _RANGE_SIGNS:
                if (bound := getattr(wanted, name)) is not None:
                    clauses.append(f"{column} {sign} ?")
                    values.append(_bound(bound))
        elif isinstance(wanted, In):
            # One parameter however many values: SQLite limits their number.
            one_of = f"{column} IN (SELECT value FROM json_each(?))"
            clauses.append(f"({one_of} OR {column} IS NULL)" if None in wanted.values else one_of)
            values.append(orjson.dumps([_bound(value) for value in wanted.values]).decode())
        elif isinstance(wanted, Has):
            clauses.append(f"EXISTS (SELECT 1 FROM json_each(doc, '$.{path}') WHERE value IS ?)")
            values.append(_bound(wanted.value))
        else:
            clauses.append(f"{column} IS ?")
            values.append(_bound(wanted))
    return clauses, values


def _after(column: str, descending: bool, value: Scalar, id: str) -> list[tuple[str, list[Scalar]]]:
    """Return what lies behind a row, as questions to ask one after the other; NULL sorts below everything."""
    if value is None:
        return [(f"{column} IS NULL AND id < ?" if descending else f"({column} IS NOT NULL OR id > ?)", [id])]
    behind = (f"({column}, id) {'<' if descending else '>'} (?, ?)", [_bound(value), id])
    return [behind, (f"{column} IS NULL", [])] if descending else [behind]


def _where_sql(clauses: Sequence[str]) -> str:
    return f" WHERE {' AND '.join(clauses)}" if clauses else ""
