"""The blob port on a folder: ``<root>/<first two>/<sha256>``, written aside, flushed, then renamed."""

import asyncio
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from trainwright.contracts.errors import Damaged, NotFound, StoreUnavailable, TooLarge
from trainwright.storage.blob import CHUNK, Blob


class DirectoryBlobs:
    """Blobs as files under one folder, which several processes may share."""

    def __init__(self, root: Path) -> None:
        self._root = root

    async def write(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        digest, size = hashlib.sha256(), 0
        try:
            aside = await asyncio.to_thread(self._aside)
        except OSError as error:
            raise self._unavailable(error) from error
        try:
            with aside:
                async for chunk in chunks:
                    size += len(chunk)
                    if limit is not None and size > limit:
                        raise TooLarge(f"the content has more than {limit} bytes, which is the limit here")
                    digest.update(chunk)
                    await asyncio.to_thread(aside.write, chunk)
                await asyncio.to_thread(self._flush, aside)
            await asyncio.to_thread(self._publish, Path(aside.name), digest.hexdigest())
        except OSError as error:
            raise self._unavailable(error) from error
        finally:
            await asyncio.to_thread(Path(aside.name).unlink, missing_ok=True)
        return Blob(digest.hexdigest(), size)

    async def write_bytes(self, content: bytes) -> Blob:
        async def once() -> AsyncIterator[bytes]:
            yield content

        return await self.write(once())

    async def write_file(self, path: Path) -> Blob:
        return await self.write(_chunks(path))

    async def size(self, sha256: str) -> int | None:
        try:
            return (await asyncio.to_thread(self._path(sha256).stat)).st_size
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._unavailable(error) from error

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        digest = hashlib.sha256()
        try:
            async for chunk in _chunks(self._path(sha256)):
                digest.update(chunk)
                yield chunk
        except FileNotFoundError:
            raise NotFound(f"no content with sha256 {sha256} is stored") from None
        except OSError as error:
            raise self._unavailable(error) from error
        if digest.hexdigest() != sha256:
            raise Damaged(f"the stored content {sha256} is damaged: it hashes to {digest.hexdigest()}")

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([chunk async for chunk in self.read(sha256)])

    async def read_file(self, sha256: str, path: Path) -> None:
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.part")
        try:
            with await asyncio.to_thread(aside.open, "wb") as file:
                async for chunk in self.read(sha256):
                    await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(aside.replace, path)
        finally:
            await asyncio.to_thread(aside.unlink, missing_ok=True)

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise NotFound(f"{sha256[:80]!r} is not a sha256")
        return self._root / sha256[:2] / sha256

    def _aside(self) -> BinaryIO:
        folder = self._root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.NamedTemporaryFile(dir=folder, delete=False)  # type: ignore[return-value]

    def _flush(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())

    def _publish(self, aside: Path, sha256: str) -> None:
        target = self._path(sha256)
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.replace(target)
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"the blob folder {self._root} cannot be used: {error.strerror or error}")


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
