"""The document port: what a service may ask of its own store. Engines live beside it (``sqlite.py``).

A store holds collections of JSON documents, an outbox (events and effects that wait for their turn), an
inbox (keys that were applied) and guards (the newest order that was applied by subject). All of them change
together in one transaction, or not at all. Not here: series and log records, which have ports of their own.
"""

import base64
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

import orjson

from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.storage.fence import LeaseState

Document = dict[str, Any]
Scalar = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Collection:
    """A named set of documents. An index is a dotted path, or several of them; every sort and filter of size needs
    one: first the paths that are equal to something, then the one that is sorted by.
    """

    name: str
    indexes: tuple[str | tuple[str, ...], ...] = ()

    def index_paths(self) -> list[tuple[str, ...]]:
        """Return the paths of each index."""
        return [(index,) if isinstance(index, str) else index for index in self.indexes]


@dataclass(frozen=True, slots=True)
class Range:
    """Match values within the bounds that are given."""

    gt: Scalar = None
    gte: Scalar = None
    lt: Scalar = None
    lte: Scalar = None


@dataclass(frozen=True, slots=True)
class In:
    """Match any of the values."""

    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Has:
    """Match lists that hold the value."""

    value: Scalar


Where = Mapping[str, Scalar | Range | In | Has]


@dataclass(frozen=True, slots=True)
class Page:
    """Documents in order, and where the next page begins."""

    items: list[Document]
    next_cursor: str | None = None


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """Something to do after the commit: an event to publish, or an effect to run. ``seq`` is its order."""

    id: str
    kind: str
    topic: str
    key: str
    headers: list[tuple[str, str]]
    value: bytes
    seq: int = 0
    tries: int = 0


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How far the relay knows the log to reach: last acknowledged offset by partition, and which log that is."""

    cluster_id: str | None = None
    offsets: Mapping[str, int] = field(default_factory=dict)
    topics: Mapping[str, str] = field(default_factory=dict)
    """Identity of each topic, by name."""


class Reader(Protocol):
    """Reads of documents, inside a transaction or beside it."""

    async def get(self, collection: str, id: str) -> Document | None:
        """Return a document, or None."""

    async def find(
        self,
        collection: str,
        where: Where | None = None,
        *,
        sort: str = "id",
        limit: int = 100,
        cursor: str | None = None,
    ) -> Page:
        """Return documents that match, sorted by a path (``-path`` for descending; ties by id).

        Raises:
            InvalidInput: The cursor was not made by this call.
        """

    async def count(self, collection: str, where: Where | None = None) -> int:
        """Return how many documents match."""


class Transaction(Reader, Protocol):
    """One atomic change of a store. Only store calls happen while it is open."""

    async def put(
        self, collection: str, id: str, document: Mapping[str, Any], *, expect: int | None = None
    ) -> None:
        """Write a whole document; with ``expect`` only over that ``version`` (0: only if there is none).

        Raises:
            VersionConflict: Another version is stored.
        """

    async def delete(self, collection: str, id: str) -> None:
        """Remove a document, if it is there."""

    async def add_outbox(self, rows: Sequence[OutboxRow]) -> None:
        """Append rows to the outbox."""

    async def first_time(self, key: str) -> bool:
        """Note a key in the inbox; return False if it was there."""

    async def newer(self, scope: str, subject: str, order: tuple[int, int]) -> bool:
        """Note an order for a subject; return False, changing nothing, if it is not above the last one."""

    async def mark_sent(self, seqs: Sequence[int], at: datetime) -> None:
        """Mark outbox rows as done."""

    async def set_log_position(self, position: LogPosition) -> None:
        """Remember how far the log reaches."""


class DocumentStore(Reader, Protocol):
    """One service's store, which several of its processes may have open.

    Every call raises ``StoreUnavailable`` when the engine cannot answer (full, broken, gone): nothing was
    changed then, and the same call may succeed later. Where a server goes at a commit and stays away, the
    message says that the outcome is not known. ``StoreBusy``, one of its kinds, says that another process wrote
    at the same moment. A transaction that is opened under a ``FENCE`` raises ``LeaseLost`` when the lease has
    another epoch.
    """

    async def open(self) -> None:
        """Create what is missing and get ready."""

    async def close(self) -> None:
        """Finish and let go of everything."""

    def transaction(self, *, durable: bool = True) -> AbstractAsyncContextManager[Transaction]:
        """Open a transaction: committed at the end of the block, rolled back if the block raises.

        One that need not be ``durable`` survives its process, but maybe no power cut, unless a durable one follows
        it: for what would only be done again. It does not wait for the disk.
        """

    async def outbox_pending(self, kind: str, limit: int) -> list[OutboxRow]:
        """Return the oldest rows of a kind (``event``, ``effect``) that are not done, in order."""

    async def outbox_depth(self) -> int:
        """Return how many rows are not done."""

    async def outbox_again(self, since: datetime) -> int:
        """Make event rows that were sent since a moment pending again; return how many."""

    async def outbox_sweep(self, before: datetime) -> int:
        """Forget rows that were done before a moment; return how many."""

    async def note_try(self, seq: int) -> None:
        """Count a failed try of an effect."""

    async def log_position(self) -> LogPosition:
        """Return how far the log was known to reach."""

    async def outbox_added(self) -> None:
        """Wait until a commit has added outbox rows since the last call."""

    def next_commit(self) -> Awaitable[object]:
        """Return what ends at the next commit that is known here: take it before a read, await it after."""

    async def look_for_commits(self) -> None:
        """Wake who waits for commits if another process may have made one since the last look."""

    async def lease(self) -> LeaseState:
        """Return who has this store's lease."""

    async def take_lease(self, seen: LeaseState, holder: str) -> bool:
        """Begin the epoch after the one that was seen; return False if the lease is not as it was seen."""

    async def renew_lease(self, epoch: int) -> bool:
        """Show that the holder is at work; return False if another epoch has begun."""

    async def release_lease(self, epoch: int) -> None:
        """Let go of the lease, if this epoch still lasts: the next process need not wait."""


def encode_cursor(value: Scalar, id: str, of_list: str) -> str:
    """Return an opaque cursor: the last row's sort value and identifier, and the list that it belongs to."""
    return base64.urlsafe_b64encode(orjson.dumps([value, id, of_list])).decode().rstrip("=")


def decode_cursor(cursor: str, of_list: str) -> tuple[Scalar, str]:
    """Return the sort value and identifier that ``encode_cursor`` was given.

    Raises:
        InvalidInput: The text is not a cursor of this list.
    """
    try:
        value, id, found = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        if found != of_list or not isinstance(id, str) or not isinstance(value, str | int | float | bool | None):
            raise ValueError
    except (ValueError, TypeError):
        error = FieldError(path="cursor", message="not a cursor of this list; take next_cursor of a page")
        raise InvalidInput(f"cursor {cursor[:40]!r} is not one of this list", [error]) from None
    return value, id
