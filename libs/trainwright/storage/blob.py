"""The blob port: content by its SHA-256. Engines live beside it (``directory.py``)."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

CHUNK = 1 << 20
"""Bytes that are held in memory at a time."""


_AREA = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}(/[A-Za-z0-9_-][A-Za-z0-9._-]{0,200})*")


def area_path(name: str) -> str:
    """Return where an area lies below its store.

    Raises:
        ValueError: It is not a name of an area.
    """
    if not _AREA.fullmatch(name):
        raise ValueError(f"{name[:80]!r} is not a name of an area, such as checkpoints/task-3f9c1a7be042")
    return f"areas/{name}"


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that is stored: its hash and its size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class Stored:
    """A blob as a listing shows it; ``modified`` is when it was last written, in seconds since 1970."""

    sha256: str
    size: int
    modified: float


class BlobStore(Protocol):
    """Content-addressed storage. The same content has one name, so writing it again is harmless.

    Every call raises ``StoreUnavailable`` when the engine cannot answer; nothing half-written is visible.
    """

    async def check(self) -> None:
        """Make ready what is missing, and see that what is written can be read; harmless to do again.

        Raises:
            StoreUnavailable: It does not work; the message says what, and why.
        """

    def area(self, name: str) -> Self:
        """Return a store of its own below this one, such as ``checkpoints/task-3f9c1a7be042``.

        The same content in two areas is stored twice, so that what is deleted in one is not missed in another.
        Parts of the name are letters, digits, ``.``, ``_`` and ``-``, and do not begin with a dot.
        """

    async def write(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        """Store a stream.

        Raises:
            TooLarge: It has more than ``limit`` bytes.
        """

    async def write_bytes(self, content: bytes) -> Blob:
        """Store bytes."""

    async def write_file(self, path: Path) -> Blob:
        """Store a file's content."""

    async def size(self, sha256: str) -> int | None:
        """Return the size in bytes, or None if it is not stored."""

    def read(self, sha256: str) -> AsyncIterator[bytes]:
        """Stream the content.

        Raises:
            NotFound: It is not stored.
            Damaged: The content does not match its hash (raised at its end).
        """

    async def read_bytes(self, sha256: str) -> bytes:
        """Return the content, verified; for small blobs."""

    async def read_file(self, sha256: str, path: Path) -> None:
        """Write the content, verified, to a file that appears whole or not at all."""

    async def delete(self, sha256: str, *, unless_after: float | None = None) -> bool:
        """Delete a blob; return whether it was there. For areas only, whose owner knows what still needs it.

        With ``unless_after`` not one that was written again after that moment (``Stored.modified``), even if that
        happens at the same time: somebody needs it again.
        """

    def stored(self) -> AsyncIterator[Stored]:
        """List what is stored here, in no order; areas below are not part of it."""

    def areas(self, name: str) -> AsyncIterator[str]:
        """List the names of the areas below an area: of ``checkpoints``, the tasks that have any."""
