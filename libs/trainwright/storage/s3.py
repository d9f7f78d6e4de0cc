"""The blob port on MinIO or another S3: an object for each content, named by its hash. The only file with minio.

The client is a blocking one, so every call runs on a thread. What comes as a stream is put aside on the local disk
first, because an object is named by a hash that is known at its end; an object appears whole or not at all, and
the same content always has the same name, so no write needs a condition.
"""

import asyncio
import contextlib
import hashlib
import io
import re
import secrets
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar, cast

from minio import Minio
from minio.commonconfig import ENABLED, Filter
from minio.error import InvalidResponseError, S3Error, ServerError
from minio.lifecycleconfig import AbortIncompleteMultipartUpload, LifecycleConfig, Rule
from urllib3 import PoolManager, Retry, Timeout
from urllib3.exceptions import HTTPError

from trainwright import crash
from trainwright.contracts.errors import Damaged, NotFound, StoreUnavailable, TooLarge
from trainwright.storage import files
from trainwright.storage.blob import CHUNK, Blob, Stored, area_path

T = TypeVar("T")

PART = 16 * CHUNK
"""Bytes of a part of an upload: what is held in memory of it, and a ten-thousandth of the largest blob."""

PARTS_AT_ONCE = 2
"""Parts that are sent while the next one is read and hashed; each takes its bytes of memory."""

IN_MEMORY = 4 * CHUNK
"""Streams up to this size are put aside in memory."""

PROBES = "areas/probe/blobs/"
PROBE_LEFT = timedelta(hours=1)
"""Age of another one's probe from which it is one that was killed before it took it away."""

_FORGET_PARTS = LifecycleConfig(
    [
        Rule(
            status=ENABLED,
            rule_filter=Filter(prefix=""),
            rule_id="unfinished-uploads",
            abort_incomplete_multipart_upload=AbortIncompleteMultipartUpload(days_after_initiation=1),
        )
    ]
)

_NAME = re.compile(r"[0-9a-f]{64}")
_MISSING = ("NoSuchKey", "NoSuchObject")


def s3_client(endpoint: str, access_key: str, secret_key: str, region: str | None = None) -> Minio:
    """Return a client that gives up within seconds; nothing is connected yet.

    Raises:
        ValueError: The endpoint is not ``http(s)://host[:port]``.
    """
    scheme, found, host = endpoint.partition("://")
    if scheme not in ("http", "https") or not found or not host.strip("/"):
        raise ValueError(f"{endpoint!r} is not the address of an S3, such as http://127.0.0.1:9000")
    pool = PoolManager(timeout=Timeout(connect=5, read=30), retries=Retry(total=2, backoff_factor=0.2), maxsize=16)
    return Minio(
        host.strip("/"), access_key, secret_key, secure=scheme == "https", region=region, http_client=pool
    )


class S3Blobs:
    """Blobs in one bucket, below a prefix; before its first use it is made ready and tried."""

    def __init__(self, client: Minio, bucket: str, prefix: str = "", tried: "_Tried | None" = None) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = prefix
        self._tried = tried or _Tried()

    def area(self, name: str) -> Self:
        return type(self)(self._client, self._bucket, f"{self._prefix}{area_path(name)}/", self._tried)

    async def write(self, chunks: AsyncIterator[bytes], *, limit: int | None = None) -> Blob:
        digest, size = hashlib.sha256(), 0
        with tempfile.SpooledTemporaryFile(IN_MEMORY) as aside:
            async for chunk in chunks:
                size += len(chunk)
                if limit is not None and size > limit:
                    raise TooLarge(f"the content has more than {limit} bytes, which is the limit here")
                digest.update(chunk)
                await asyncio.to_thread(aside.write, chunk)
            aside.seek(0)
            await self._put(digest.hexdigest(), aside, size)  # type: ignore[arg-type]
        return Blob(digest.hexdigest(), size)

    async def write_bytes(self, content: bytes) -> Blob:
        sha256 = hashlib.sha256(content).hexdigest()
        await self._put(sha256, io.BytesIO(content), len(content))
        return Blob(sha256, len(content))

    async def write_file(self, path: Path) -> Blob:
        with await asyncio.to_thread(path.open, "rb") as file:
            digest = await asyncio.to_thread(hashlib.file_digest, file, "sha256")
            size = file.tell()
            file.seek(0)
            sent = _Hashed(file)
            with contextlib.suppress(_Short):
                await self._put(digest.hexdigest(), cast("BinaryIO", sent), size)
        if sent.digest.hexdigest() != digest.hexdigest():
            await self.delete(digest.hexdigest())
            raise StoreUnavailable(f"{path} changed while it was stored; store it again")
        return Blob(digest.hexdigest(), size)

    async def size(self, sha256: str) -> int | None:
        try:
            found = await self._call(lambda: self._client.stat_object(self._bucket, self._key(sha256)))
        except NotFound:
            return None
        return int(found.size or 0)

    async def read(self, sha256: str) -> AsyncGenerator[bytes, None]:
        digest, key = hashlib.sha256(), self._key(sha256)
        response = await self._call(lambda: self._client.get_object(self._bucket, key))
        try:
            while chunk := await self._call(lambda: response.read(CHUNK)):
                digest.update(chunk)
                yield chunk
        finally:
            response.close()
            response.release_conn()
        if digest.hexdigest() != sha256:
            raise Damaged(f"the stored content {sha256} is damaged: it hashes to {digest.hexdigest()}")

    async def read_bytes(self, sha256: str) -> bytes:
        return b"".join([chunk async for chunk in self.read(sha256)])

    async def read_file(self, sha256: str, path: Path) -> None:
        await files.save(self.read(sha256), path)

    async def delete(self, sha256: str, *, unless_after: float | None = None) -> bool:
        # S3 has no "delete if not written since": between look and delete lie milliseconds. The look is a list
        # because MinIO tells them there; of one object it tells the second, in which it may be written again.
        if not _NAME.fullmatch(sha256):
            return False
        found = await self._list(self._key(sha256), recursive=True)
        if not found or (unless_after is not None and found[0].last_modified.timestamp() > unless_after):
            return False
        await self._call(lambda: self._client.remove_object(self._bucket, self._key(sha256)))
        return True

    async def stored(self) -> AsyncGenerator[Stored, None]:
        for found in await self._list(f"{self._prefix}blobs/", recursive=True):
            name = str(found.object_name).rpartition("/")[2]
            if _NAME.fullmatch(name) and found.last_modified is not None:
                yield Stored(name, int(found.size or 0), found.last_modified.timestamp())

    async def areas(self, name: str) -> AsyncGenerator[str, None]:
        below = f"{self._prefix}{area_path(name)}/"
        for found in await self._list(below, recursive=False):
            part = str(found.object_name).removeprefix(below).strip("/")
            if found.is_dir and part != "blobs":
                yield f"{name}/{part}"

    async def check(self) -> None:
        with self._answering():
            await asyncio.to_thread(self._try)
        self._tried.done = True

    def _try(self) -> None:
        """Make the bucket if it is missing, and see that what is written is there at once, in lists too."""
        if not self._client.bucket_exists(self._bucket):
            self._make_bucket()
        content = secrets.token_bytes(16)
        key = f"{PROBES}{hashlib.sha256(content).hexdigest()}"
        for _ in range(2):  # writing again is no error
            self._client.put_object(self._bucket, key, io.BytesIO(content), len(content))
        response = self._client.get_object(self._bucket, key)
        try:
            found = response.read()
        finally:
            response.close()
            response.release_conn()
        listed = list(self._client.list_objects(self._bucket, prefix=key))
        self._client.remove_object(self._bucket, key)
        if found != content or [each.object_name for each in listed] != [key]:
            raise StoreUnavailable(
                f"the bucket {self._bucket} cannot be used: what was just written is not read or listed as it was"
            )
        # In a list of its own: MinIO may answer this one from another's, which began before ours was written. What
        # is just being taken away has no time there.
        now = listed[0].last_modified
        for each in self._client.list_objects(self._bucket, prefix=PROBES):
            if now and each.last_modified and each.last_modified < now - PROBE_LEFT:
                self._client.remove_object(self._bucket, each.object_name)

    def _make_bucket(self) -> None:
        try:
            self._client.make_bucket(self._bucket)
        except S3Error as error:
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise
        # What a killed writer had sent of a large object is seen by nobody, and goes after a day. MinIO does that
        # by itself, and knows no such rule.
        with contextlib.suppress(S3Error):
            self._client.set_bucket_lifecycle(self._bucket, _FORGET_PARTS)

    async def _list(self, prefix: str, *, recursive: bool) -> list[Any]:
        return await self._call(
            lambda: list(self._client.list_objects(self._bucket, prefix=prefix, recursive=recursive))
        )

    async def _put(self, sha256: str, content: BinaryIO, size: int) -> None:
        crash.point("s3.hashed")
        await self._call(
            lambda: self._client.put_object(
                self._bucket, self._key(sha256), content, size, part_size=PART, num_parallel_uploads=PARTS_AT_ONCE
            )
        )
        crash.point("s3.put")

    def _key(self, sha256: str) -> str:
        if not _NAME.fullmatch(sha256):
            raise NotFound(f"{sha256[:80]!r} is not a sha256")
        return f"{self._prefix}blobs/{sha256[:2]}/{sha256}"

    async def _call(self, call: Callable[[], T]) -> T:
        if not self._tried.done:
            async with self._tried.trying:
                if not self._tried.done:
                    await self.check()
        with self._answering():
            return await asyncio.to_thread(call)

    @contextlib.contextmanager
    def _answering(self) -> Iterator[None]:
        try:
            yield
        except S3Error as error:
            if error.code in _MISSING:
                raise NotFound(
                    f"no content with sha256 {str(error.object_name or error.resource)[-64:]} is stored"
                ) from error
            raise StoreUnavailable(
                f"the bucket {self._bucket} cannot be used: {error.code}: {error.message}"
            ) from error
        except (InvalidResponseError, ServerError, HTTPError) as error:
            raise StoreUnavailable(f"the bucket {self._bucket} cannot be reached: {error}") from error


class _Tried:
    """Whether a bucket was seen to work, by whichever of its areas came first."""

    def __init__(self) -> None:
        self.done = False
        self.trying = asyncio.Lock()


class _Short(Exception):
    """A file ended before the size that it had."""


class _Hashed(io.RawIOBase):
    """A file that is hashed while it is sent."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.digest.update(chunk)
        if not chunk:
            raise _Short
        return chunk
