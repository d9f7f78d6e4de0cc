"""What requests are made of: names in paths, parameters that were given, files in pieces."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from trainwright.contracts.errors import NotFound

CHUNK = 2**20


def segment(name: str, safe: str = "") -> str:
    """Return a name as part of a path, whatever is in it."""
    quoted = quote(name, safe=safe, errors="replace")
    if any(part in ("", ".", "..") for part in quoted.split("/")):
        raise NotFound(f"nothing has the id {name!r}")
    return quoted


def given(**values: object) -> dict[str, Any]:
    """Return the values that are not None."""
    return {name: value for name, value in values.items() if value is not None}


def chunks(content: bytes | Path) -> Iterator[bytes]:
    """Yield a content in pieces, a file's as it is read."""
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as file:
        while chunk := file.read(CHUNK):
            yield chunk


def hash_of(content: bytes | Path) -> tuple[str, int]:
    """Return the SHA-256 of a content in hex, and its bytes."""
    digest, size = hashlib.sha256(), 0
    for chunk in chunks(content):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
