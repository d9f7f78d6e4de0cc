"""The records port: log records of runs, searchable. Engines live beside it (``sqlite_records.py``,
``mongo_records.py``).

Records stand in the order of their arrival within a task. Not here: masking of secrets, which comes before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import orjson

from trainwright.contracts.errors import FieldError, InvalidInput
from trainwright.contracts.log import LogEntry, LogLevel, LogRecord, LogStream
from trainwright.storage.document import Transaction

LEVELS = {level: number for number, level in enumerate(LogLevel, start=1)}
"""How grave a level is, as engines keep it."""

_BY_NUMBER = {number: level for level, number in LEVELS.items()}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_ALWAYS = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Search:
    """Which records to find: at least this grave, within these times (both included), holding this text.

    Case does not matter in the text, and no character in it is a wildcard.
    """

    level: LogLevel | None = None
    keyword: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    rank: int | None = None
    """Of an attempt on several workers: whose; what one worker alone wrote is rank 0's."""


@dataclass(frozen=True, slots=True)
class Found:
    """Records in order, and the position to go on from: also at the end, where more may come."""

    entries: list[LogEntry]
    cursor: int


class Records(Protocol):
    """Log records by task. Writes happen inside a transaction of the store that they share.

    Raises ``StoreUnavailable`` like the document port.
    """

    async def append(
        self,
        tx: Transaction,
        task_id: str,
        attempt: int,
        stream: LogStream,
        records: Sequence[LogRecord],
        rank: int | None = None,
    ) -> int:
        """Keep records whose number is above the stream's last one; return how many were kept.

        Those that a lost attempt, or a lost rank of it, wrote after its loss are counted and not kept.
        """

    async def note_lost(
        self, tx: Transaction, task_id: str, attempt: int, at: datetime, rank: int | None = None
    ) -> None:
        """Remember when an attempt's worker was given up: all of it, or one of several."""

    async def known(self, task_id: str) -> bool:
        """Return whether a task has records."""

    async def dropped(self, task_id: str) -> int:
        """Return how many records of a task came from lost attempts and were not kept."""

    async def find(self, task_id: str, search: Search, *, cursor: int = 0, limit: int = 100) -> Found:
        """Return at most ``limit`` matching records after a position.

        Raises:
            InvalidInput: The position is beyond the end.
        """


def micros(moment: datetime) -> int:
    """Return a moment in microseconds since 1970, as engines keep it."""
    return (moment - _EPOCH) // _MICROSECOND


def bounds_of(search: Search) -> tuple[int, int, int]:
    """Return the first and last time of a search, and how grave a record must be, as engines keep them."""
    start = -_ALWAYS if search.start is None else micros(search.start)
    end = _ALWAYS if search.end is None else micros(search.end)
    return start, end, LEVELS[search.level] if search.level else 0


def source_of(stream: LogStream, rank: int | None) -> str:
    """Return whose stream it is, as engines keep it: `stdout`, or `stdout/1` of rank 1 of several."""
    return stream.value if rank is None else f"{stream.value}/{rank}"


def sources_of(search: Search) -> list[str]:
    """Return the streams that a search is restricted to; none when it is not."""
    if search.rank is None:
        return []
    of_one = [stream.value for stream in LogStream] if search.rank == 0 else []
    return of_one + [source_of(stream, search.rank) for stream in LogStream]


def carried_by(record: LogRecord) -> str | None:
    """Return what else a record says, as engines keep it."""
    return orjson.dumps(record.extra).decode() if record.extra else None


def entry_of(attempt: int, source: str, time: int, level: int, message: str, carried: str | None) -> LogEntry:
    """Return the entry of a record that an engine kept."""
    stream, _, rank = source.partition("/")
    whose: dict[str, Any] = {"attempt": attempt, "stream": stream, **({"rank": int(rank)} if rank else {})}
    return LogEntry(
        time=_EPOCH + time * _MICROSECOND,
        level=_BY_NUMBER[level],
        message=message,
        extra={**(orjson.loads(carried) if carried else {}), **whose},
    )


def check_cursor(cursor: int, head: int) -> None:
    """Check that a position is not beyond the end of a task's records.

    Raises:
        InvalidInput: It is.
    """
    if cursor > head:
        message = f"beyond the end, which is at {head}; take next_cursor of a page"
        raise InvalidInput(f"cursor: {message}", [FieldError(path="cursor", message=message)])
