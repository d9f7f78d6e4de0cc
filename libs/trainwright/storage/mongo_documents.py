"""Documents as MongoDB keeps them: how a question of the port becomes a filter. Pure; no driver in here.

A document lies under ``doc`` beside its ``_id``, which stands there as ``id`` too: an index that ends with ``_id``
is more than every server of this protocol can do. MongoDB gives ``.`` and ``$`` in names a meaning of its own, so
those are written as other characters and read back as what they were.
"""

import math
from typing import Any

from trainwright.storage.document import (
    Collection,
    Document,
    Has,
    In,
    OutboxRow,
    Range,
    Scalar,
    Where,
    decode_cursor,
)

Filter = dict[str, Any]

ID = "id"
OWN = OUTBOX, INBOX, GUARDS, FACTS, COMMITS = "_outbox", "_inbox", "_guards", "_facts", "_commits"
COMMITS_KEPT_SECONDS = 3600
LEASE = "lease"
"""The lease's name among the marks of transactions."""

WRONG_IN_ITSELF = frozenset({2, 9, 14, 15, 22, 52, 57, 10334, 17280, 17419, 17420})
"""The server's codes for what it will never take (too large, too deep, a name): waiting would not mend that."""
DUPLICATE = 11000
"""The server's code for an ``_id`` that somebody else has made at the same moment."""

_ESCAPE = str.maketrans({"\\": "\\\\", ".": "\\d", "$": "\\s", "\0": "\\0"})
_LARGEST = 2**63 - 1
_UNSIGNED = "\\u"
"""The name, which no escape makes, of a whole number that is too large for MongoDB's."""

_BOUNDS = ("gt", "gte", "lt", "lte")
_KINDS = ("number", "string", "bool")
"""Kinds of values above null, in the order in which MongoDB sorts them; it compares only within one."""


def to_stored(value: Any) -> Any:
    """Return a JSON value with names that MongoDB takes as they are."""
    if isinstance(value, dict):
        return {_escaped(name): to_stored(item) for name, item in value.items()}
    if isinstance(value, int) and value > _LARGEST:  # a seed may have all of 64 bits
        return {_UNSIGNED: str(value)}
    return [to_stored(item) for item in value] if isinstance(value, list) else value


def from_stored(value: Any) -> Any:
    """Return what ``to_stored`` was given."""
    if isinstance(value, dict):
        if _UNSIGNED in value:
            return int(value[_UNSIGNED])
        return {_unescaped(name): from_stored(item) for name, item in value.items()}
    return [from_stored(item) for item in value] if isinstance(value, list) else value


def indexes_of(collection: Collection) -> list[tuple[list[tuple[str, int]], dict[str, int]]]:
    """Return the indexes of a collection: each its fields, and what else is said of it."""
    if collection.name == OUTBOX:
        return [([("sent", 1), ("kind", 1), ("number", 1)], {}), ([("sent", 1), ("sent_at", 1)], {})]
    if collection.name == COMMITS:
        return [([("at", 1)], {"expireAfterSeconds": COMMITS_KEPT_SECONDS})]
    return [([*((field_of(path), 1) for path in paths), (ID, 1)], {}) for paths in collection.index_paths()]


def content_of(id: str, document: Document) -> Document:
    """Return what is kept of a document."""
    return {"_id": id, ID: id, "doc": to_stored(document)}


def filter_of(where: Where | None) -> Filter:
    """Return the filter that matches what ``where`` says."""
    clauses = [_clause(*item) for item in (where or {}).items()]
    return {field: wanted for clause in clauses for field, wanted in clause.items()}


def both(one: Filter, other: Filter) -> Filter:
    """Return the filter that matches what two match."""
    return {"$and": [one, other]} if one.keys() & other.keys() else {**one, **other}


def order_of(sort: str, wanted: Filter) -> list[tuple[str, int]]:
    """Return the sort order: the path, ties by identifier."""
    direction = -1 if sort.startswith("-") else 1
    field = field_of(sort.removeprefix("-"))
    return [(_identity(wanted), direction)] if field == ID else [(field, direction), (ID, direction)]


def after(cursor: str, sort: str, of_list: str, wanted: Filter) -> list[Filter]:
    """Return what lies behind a cursor as filters to ask one after the other; null sorts below everything.

    Raises:
        InvalidInput: The cursor is not one of this list.
    """
    value, id = decode_cursor(cursor, of_list)
    field, sign = field_of(sort.removeprefix("-")), "$lt" if sort.startswith("-") else "$gt"
    if field == ID:
        return [{_identity(wanted): {sign: id}}]
    questions: list[Filter] = [{field: value, ID: {sign: id}}]
    if value is not None:
        questions.append({field: {sign: value}})
        place = _KINDS.index(_kind(value))
        others = _KINDS[place + 1 :] if sign == "$gt" else _KINDS[:place][::-1]
        questions += [{field: {"$type": kind, "$not": {sign: value}}} for kind in others]
    if value is not None and sign == "$lt":
        questions.append({field: None})
    if value is None and sign == "$gt":
        questions.append({field: {"$exists": True, "$ne": None}})
    return questions


def sort_value(document: Document, id: str, sort: str) -> Scalar:
    """Return the value that a document is sorted by."""
    path = sort.removeprefix("-")
    found: Any = document
    for name in () if path == "id" else path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return id if path == "id" else found


def field_of(path: str) -> str:
    """Return where a path of a document is stored."""
    return ID if path == "id" else f"doc.{path}"


def outbox_id(number: int) -> str:
    """Return the ``_id`` of an outbox row, in the order of the numbers."""
    return f"{number:020d}"


def outbox_document(row: OutboxRow, number: int) -> Document:
    """Return an outbox row as it is kept."""
    return {
        "_id": outbox_id(number),
        "number": number,
        "id": row.id,
        "kind": row.kind,
        "topic": row.topic,
        "key": row.key,
        "headers": [list(header) for header in row.headers],
        "value": row.value,
        "tries": 0,
        "sent": False,
        "sent_at": None,
    }


def outbox_row(found: Document) -> OutboxRow:
    """Return the outbox row that is kept like this."""
    return OutboxRow(
        found["id"],
        found["kind"],
        found["topic"],
        found["key"],
        [(name, value) for name, value in found["headers"]],
        bytes(found["value"]),
        found["number"],
        found["tries"],
    )


def _kind(value: Scalar) -> str:
    return "bool" if isinstance(value, bool) else "string" if isinstance(value, str) else "number"


def _identity(wanted: Filter) -> str:
    """Return which of the two a list by identifier is read by: indexes end with the one, `_id` has its own."""
    return ID if wanted else "_id"


def _clause(path: str, wanted: Scalar | Range | In | Has) -> Filter:
    field = field_of(path)
    if isinstance(wanted, Range):
        bounds = {f"${name}": _bound(value) for name in _BOUNDS if (value := getattr(wanted, name)) is not None}
        return {field: bounds} if bounds else {}
    if isinstance(wanted, In):
        return {field: {"$in": [_bound(value) for value in wanted.values]}}
    if isinstance(wanted, Has):
        return {field: {"$elemMatch": {"$eq": _bound(wanted.value)}}}
    return {field: {"$in": [None]} if wanted is None else _bound(wanted)}


def _bound(value: Scalar) -> Scalar:
    # No stored number is outside of 64 bits; the driver would refuse to send one that is.
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        return math.copysign(math.inf, value)
    return value


def _escaped(name: str) -> str:
    return name.translate(_ESCAPE)


def _unescaped(name: str) -> str:
    if "\\" not in name:
        return name
    plain = {"\\": "\\", "d": ".", "s": "$", "0": "\0"}
    parts, place = [], 0
    while (found := name.find("\\", place)) >= 0:
        parts += [name[place:found], plain[name[found + 1]]]
        place = found + 2
    return "".join([*parts, name[place:]])
