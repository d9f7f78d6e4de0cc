"""The blob port: content by its SHA-256. Engines live beside it (``directory.py``)."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CHUNK = 1 << 20
"""Bytes that are held in memory at a time."""


@dataclass(frozen=True, slots=True)
class Blob:
    """Content that is stored: its hash and its size in bytes."""

    sha256: str
    size: int


class BlobStore(Protocol):
    """Content-addressed storage. The same content has one name, so writing it again is harmless.

    Every call raises ``StoreUnavailable`` when the engine cannot answer; nothing half-written is visible.
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
