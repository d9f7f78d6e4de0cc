"""The records port: log records of runs, searchable. Engines live beside it (``sqlite_records.py``).

Records stand in the order of their arrival within a task. Not here: masking of secrets, which comes before.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from trainwright.contracts.log import LogEntry, LogLevel, LogRecord, LogStream
from trainwright.storage.document import Transaction


@dataclass(frozen=True, slots=True)
class Search:
    """Which records to find: at least this grave, within these times (both included), holding this text.

    Case does not matter in the text, and no character in it is a wildcard.
    """

    level: LogLevel | None = None
    keyword: str | None = None
    start: datetime | None = None
    end: datetime | None = None


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
        self, tx: Transaction, task_id: str, attempt: int, stream: LogStream, records: Sequence[LogRecord]
    ) -> int:
        """Keep records whose number is above the stream's last one; return how many were kept.

        Those that a lost attempt wrote after its loss are counted and not kept.
        """

    async def note_lost(self, tx: Transaction, task_id: str, attempt: int, at: datetime) -> None:
        """Remember when an attempt's worker was given up."""

    async def known(self, task_id: str) -> bool:
        """Return whether a task has records."""

    async def dropped(self, task_id: str) -> int:
        """Return how many records of a task came from lost attempts and were not kept."""

    async def find(self, task_id: str, search: Search, *, cursor: int = 0, limit: int = 100) -> Found:
        """Return at most ``limit`` matching records after a position.

        Raises:
            InvalidInput: The position is beyond the end.
        """
