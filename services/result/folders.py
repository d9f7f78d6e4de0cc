"""The folders that reports are made in: each is locked while its process lives, and swept once that was killed.

They lie in the temporary directory, where those of other platforms of this machine lie too; the lock is what tells
whose are in use. Not here: what is put into them (``rendering.py``).
"""

import asyncio
import fcntl
import logging
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

PREFIX = "trainwright-report-"
YOUNG = 60.0
"""Seconds since a folder was made, or last put something into, within which its lock may still be missing."""


@asynccontextmanager
async def folder() -> AsyncIterator[Path]:
    """Have a folder until the end of the block."""
    made, lock = await asyncio.to_thread(_make)
    try:
        yield made
    finally:
        await asyncio.to_thread(shutil.rmtree, made, ignore_errors=True)
        os.close(lock)


def sweep() -> int:
    """Remove the folders of processes that were killed; return how many that were."""
    found = [path for path in Path(tempfile.gettempdir()).glob(f"{PREFIX}*") if _is_left(path)]
    for path in found:
        shutil.rmtree(path, ignore_errors=True)
    if found:
        logger.info("%d folders of reports that were not finished are removed", len(found))
    return len(found)


def _make() -> tuple[Path, int]:
    made = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = os.open(made, os.O_RDONLY | os.O_CLOEXEC)
    fcntl.flock(lock, fcntl.LOCK_EX)
    return made, lock


def _is_left(path: Path) -> bool:
    with suppress(OSError):  # it has just gone, or is another user's
        lock = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return time.time() - os.fstat(lock).st_mtime > YOUNG
        finally:
            os.close(lock)
    return False
