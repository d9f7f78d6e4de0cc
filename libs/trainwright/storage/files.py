"""What is read from a blob store becomes a file: whole, or not there."""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator
from pathlib import Path


async def save(content: AsyncGenerator[bytes], path: Path) -> None:
    """Write content to a file, which is there once all of it is; OSError when the disk refuses it."""
    await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
    # A name of its own: two readers of the same path must not write into one file.
    aside = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
    try:
        with await asyncio.to_thread(aside.open, "xb") as file:
            async with contextlib.aclosing(content) as chunks:
                async for chunk in chunks:
                    await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(aside.replace, path)
    finally:
        await asyncio.to_thread(aside.unlink, missing_ok=True)
