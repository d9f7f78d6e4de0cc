"""A stretch of one attempt's series as one document: steps, times and values in columns of exact bytes.

Rows stand by their number in the task's sequence, without a gap. Columns are numbered by the attempt's list of
names, so that any name will do. A column that misses rows has beside it the rows that it has.
Not here: where chunks are kept, and what in them counts.
"""

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from trainwright.storage.document import Document

FULL = 8 * 1024
"""Bytes from which on a chunk takes no more: it is written again whole for every append until then."""

_ROW, _VALUE = 16, 8
ROWS = FULL // _ROW
"""Rows that a chunk has at most."""


@dataclass(slots=True)
class Chunk:
    """Rows from the number ``first`` on; ``columns`` has rows and values by column."""

    attempt: int
    first: int
    steps: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    columns: dict[int, tuple[list[int], list[float]]] = field(default_factory=dict)
    size: int = 0

    @property
    def last(self) -> int:
        """The number of the last row."""
        return self.first + len(self.steps) - 1

    def add(self, step: int, time: float, values: Iterable[tuple[int, float]]) -> None:
        """Append a row: (column, value) of what it has."""
        row = len(self.steps)
        self.steps.append(step)
        self.times.append(time)
        self.size += _ROW
        for column, value in values:
            rows, found = self.columns.setdefault(column, ([], []))
            rows.append(row)
            found.append(value)
            self.size += _VALUE


def fields_of(columns: Iterable[int], *, times: bool = True) -> list[str]:
    """Return the fields that these columns are read from."""
    of_columns = [field for column in columns for field in (f"v{column}", f"r{column}")]
    return ["attempt", "first", "steps", *(["times"] if times else []), *of_columns]


def to_document(id: str, chunk: Chunk) -> Document:
    """Return a chunk as it is kept.

    Raises:
        struct.error: A step does not fit into 64 bits.
    """
    document = {
        "_id": id,
        "attempt": chunk.attempt,
        "first": chunk.first,
        "last": chunk.last,
        "low": min(chunk.steps),
        "high": max(chunk.steps),
        "steps": _packed("q", chunk.steps),
        "times": _packed("d", chunk.times),
    }
    for column, (rows, values) in chunk.columns.items():
        document[f"v{column}"] = _packed("d", values)
        if len(rows) < len(chunk.steps):
            document[f"r{column}"] = _packed("I", rows)
    return document


def from_document(document: Document) -> Chunk:
    """Return the chunk, with the columns and times that were read."""
    steps, times = _whole("q", document["steps"]), _floats(document.get("times", b""))
    chunk = Chunk(document["attempt"], document["first"], steps, times, size=_ROW * len(steps))
    for name, content in document.items():
        if name[0] == "v":
            values, some = _floats(content), document.get(f"r{name[1:]}")
            rows = list(range(len(steps))) if some is None else _whole("I", some)
            chunk.columns[int(name[1:])] = (rows, values)
            chunk.size += _VALUE * len(values)
    return chunk


def _packed(kind: str, values: Sequence[float]) -> bytes:
    return struct.pack(f"<{len(values)}{kind}", *values)


def _floats(content: bytes) -> list[float]:
    return list(struct.unpack(f"<{len(content) // 8}d", content))


def _whole(kind: str, content: bytes) -> list[int]:
    return list(struct.unpack(f"<{len(content) // struct.calcsize(f'<{kind}')}{kind}", content))
