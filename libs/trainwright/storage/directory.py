"""The blob port on a folder: ``<root>/<first two>/<sha256>``, written aside, flushed, then renamed."""

import asyncio
import contextlib
import fcntl
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from pathlib import Path
from typing import BinaryIO, Self

from trainwright import crash
from trainwright.contracts.errors import Damaged, NotFound, StoreUnavailable, TooLarge
from trainwright.storage import files
from trainwright.storage.blob import CHUNK, Blob, Stored, area_path

LEFT_BEHIND = 24 * 3600.0
"""Seconds after which what a killed writer left aside is removed."""


class DirectoryBlobs:
    """Blobs as files under one folder, which several processes may share."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._swept = False

    def area(self, name: str) -> Self:
        return type(self)(self._folder_of(name))

    async def check(self) -> None:
        probe = await self.area("probe").write_bytes(secrets.token_bytes(16))
        await self.area("probe").read_bytes(probe.sha256)
        await self.area("probe").delete(probe.sha256)

    async def write(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        digest, size = hashlib.sha256(), 0
        with self._answering():
            aside = await asyncio.to_thread(self._aside)
        try:
            async for chunk in chunks:
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLarge(f"the content has more than {limit} bytes, which is the limit here")
                digest.update(chunk)
                with self._answering():
                    await asyncio.to_thread(aside.write, chunk)
            with self._answering():
                crash.point("directory.aside")
                await asyncio.to_thread(_flush, aside)
                crash.point("directory.flushed")
                await asyncio.to_thread(self._publish, Path(aside.name), digest.hexdigest())
                crash.point("directory.named")
        finally:
            await asyncio.to_thread(_discard, aside)
        return Blob(digest.hexdigest(), size)

    async def write_bytes(self, content: bytes) -> Blob:
        async def once() -> AsyncIterator[bytes]:
            yield content

        return await self.write(once())

    async def write_file(self, path: Path) -> Blob:
        return await self.write(_chunks(path))

    async def size(self, sha256: str) -> int | None:
        try:
            with self._answering():
                return self._path(sha256).stat().st_size  # a thread would cost a hundred times as much
        except (FileNotFoundError, NotFound):
            return None

    async def read(self, sha256: str) -> AsyncGenerator[bytes, None]:
        digest = hashlib.sha256()
        try:
            with self._answering():
                file = await asyncio.to_thread(self._path(sha256).open, "rb")
        except FileNotFoundError:
            raise NotFound(f"no content with sha256 {sha256} is stored") from None
        with file:
            while True:
                with self._answering():
                    chunk = await asyncio.to_thread(file.read, CHUNK)
                if not chunk:
                    break
                digest.update(chunk)
                yield chunk
        if digest.hexdigest() != sha256:
            raise Damaged(f"the stored content {sha256} is damaged: it hashes to {digest.hexdigest()}")

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([chunk async for chunk in self.read(sha256)])

    async def read_file(self, sha256: str, path: Path) -> None:
        await files.save(self.read(sha256), path)

    async def delete(self, sha256: str, *, unless_after: float | None = None) -> bool:
        try:
            with self._answering():
                return await asyncio.to_thread(self._delete, self._path(sha256), unless_after)
        except (FileNotFoundError, NotFound):
            return False

    async def stored(self) -> AsyncGenerator[Stored, None]:
        with self._answering():
            found = await asyncio.to_thread(self._listed)
        for one in found:
            yield one

    async def areas(self, name: str) -> AsyncGenerator[str, None]:
        folder = self._folder_of(name)
        with self._answering():
            names = await asyncio.to_thread(lambda: sorted(os.listdir(folder)) if folder.is_dir() else [])
        for found in names:
            yield f"{name}/{found}"

    def _folder_of(self, area: str) -> Path:
        return self._root / area_path(area)

    def _listed(self) -> list[Stored]:
        found = []
        for path in self._root.glob("[0-9a-f][0-9a-f]/*"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                found.append(Stored(path.name, status.st_size, status.st_mtime))
        return found

    def _path(self, sha256: str) -> Path:
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise NotFound(f"{sha256[:80]!r} is not a sha256")
        return self._root / sha256[:2] / sha256

    def _aside(self) -> BinaryIO:
        folder = self._root / "incoming"
        folder.mkdir(parents=True, exist_ok=True)
        if not self._swept:
            self._swept = True
            _sweep(folder)
        return tempfile.NamedTemporaryFile(dir=folder, delete=False)  # type: ignore[return-value]

    def _publish(self, aside: Path, sha256: str) -> None:
        target = self._path(sha256)
        if not target.parent.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            _flush_folder(self._root)
        with self._locked(fcntl.LOCK_SH):
            aside.replace(target)
        _flush_folder(target.parent)

    def _delete(self, path: Path, unless_after: float | None) -> bool:
        with self._locked(fcntl.LOCK_EX):  # no writer puts it there anew between the look and the end
            if unless_after is not None and path.stat().st_mtime > unless_after:
                return False
            path.unlink()
        return True

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Keep deletions apart from what other threads and processes of this machine put in their place."""
        descriptor = os.open(self._root, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            reason = error.strerror or error
            raise StoreUnavailable(f"the blob folder {self._root} cannot be used: {reason}") from error


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > LEFT_BEHIND:
                path.unlink()


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _discard(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # closing writes what is buffered, which a full disk refuses again
        file.close()
    Path(file.name).unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


async def _chunks(path: Path) -> AsyncIterator[bytes]:
    with await asyncio.to_thread(path.open, "rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK):
            yield chunk
