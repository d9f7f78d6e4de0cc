"""The blob port on S3: the contract, against a real MinIO, and what only a network can do."""

import asyncio
import io
import secrets
import subprocess
import sys
import textwrap
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import pytest
from minio import Minio

from tests.contract.blob_store import BlobStoreContract, Damage, drain, sha256
from tests.harness import eventually
from tests.minio_server import MinioServer, program, started
from trainwright.contracts.errors import StoreUnavailable
from trainwright.embedded.archive import free_ports
from trainwright.runtime import engines
from trainwright.runtime.environment import Unfit
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage import s3
from trainwright.storage.s3 import S3Blobs, s3_client


@pytest.fixture
def client(minio: MinioServer) -> Minio:
    return s3_client(minio.endpoint, minio.access_key, minio.secret_key)


@pytest.fixture
def bucket(client: Minio) -> str:
    name = f"test-{uuid4().hex[:12]}"
    client.make_bucket(name)
    return name


@pytest.fixture
def blobs(client: Minio, bucket: str) -> S3Blobs:
    return S3Blobs(client, bucket)


@pytest.fixture
def damage(client: Minio, bucket: str) -> Damage:
    def write_over(name: str, content: bytes) -> None:
        client.put_object(bucket, f"blobs/{name[:2]}/{name}", io.BytesIO(content), len(content))

    return write_over


class TestS3Blobs(BlobStoreContract):
    """A bucket keeps the contract."""


async def test_a_missing_bucket_is_made_before_the_first_use(client: Minio) -> None:
    blobs = S3Blobs(client, f"test-{uuid4().hex[:12]}")
    one, other = blobs.area("checkpoints/task-1"), S3Blobs(client, blobs._bucket)
    stored = await asyncio.gather(*[each.write_bytes(b"x") for each in (blobs, one, other)])
    assert await other.read_bytes(stored[0].sha256) == b"x"


async def test_what_a_killed_first_check_left_is_taken_away_and_no_other_ones(
    client: Minio, blobs: S3Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = f"{s3.PROBES}{sha256(b'left')}"
    client.put_object(blobs._bucket, left, io.BytesIO(b"left"), 4)

    def probes() -> list[str | None]:
        return [each.object_name for each in client.list_objects(blobs._bucket, recursive=True)]

    await blobs.check()
    assert probes() == [left], "another process may be about to read it"
    monkeypatch.setattr(s3, "PROBE_LEFT", timedelta(0))
    await blobs.check()
    assert probes() == []


async def test_wrong_credentials_and_nobody_there_are_told(minio: MinioServer) -> None:
    with pytest.raises(StoreUnavailable, match=r"SignatureDoesNotMatch|Forbidden|AccessDenied"):
        await S3Blobs(s3_client(minio.endpoint, minio.access_key, "wrong-secret"), "any").write_bytes(b"x")
    (port,) = free_ports(1)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await S3Blobs(s3_client(f"http://127.0.0.1:{port}", "a", "b"), "any").write_bytes(b"x")


MEMORY_OF_A_LARGE_STREAM = """
    import asyncio, os, resource, sys
    from pathlib import Path
    from trainwright.storage.s3 import S3Blobs, s3_client

    async def stream():
        chunk = bytes(1 << 20)
        for _ in range(200):
            yield chunk

    async def main():
        blobs, target = S3Blobs(s3_client(*sys.argv[1:4]), sys.argv[4]), Path(sys.argv[5])
        await blobs.check()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        blob = await blobs.write(stream())
        assert blob.size == 200 << 20
        await blobs.read_file(blob.sha256, target)
        await blobs.write_file(target)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    asyncio.run(main())
"""


def test_a_stream_of_200_mb_takes_little_memory(minio: MinioServer, bucket: str, tmp_path: Path) -> None:
    where = [minio.endpoint, minio.access_key, minio.secret_key, bucket, str(tmp_path / "out")]
    args = [sys.executable, "-c", textwrap.dedent(MEMORY_OF_A_LARGE_STREAM), *where]
    done = subprocess.run(args, capture_output=True, text=True, timeout=170, check=False)
    assert done.returncode == 0, done.stderr
    unit = 1024 if sys.platform == "darwin" else 1
    assert int(done.stdout) / unit < 80 * 1024


async def test_a_server_that_is_killed_leaves_nothing_torn_and_goes_on_when_it_is_back(tmp_path: Path) -> None:
    found = program()
    if found is None:
        pytest.skip("a server to kill is MinIO as a program: `make minio` builds it")
    large, (port,) = secrets.token_bytes(40 << 20), free_ports(1)
    with started(found, tmp_path, port) as (server, process):
        blobs = S3Blobs(s3_client(server.endpoint, server.access_key, server.secret_key), "kept")
        kept = await blobs.write_bytes(large)
        reading = blobs.read(kept.sha256)
        await anext(reading)
        writing = asyncio.create_task(blobs.write_bytes(large[1:]))
        await eventually(lambda: list(tmp_path.glob("data/.minio.sys/multipart/*/*/*")), within=20, what="a part")
        process.kill()
        process.wait()
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await drain(reading)
        with pytest.raises(StoreUnavailable, match="cannot be reached"):
            await writing
    with started(found, tmp_path, port):
        await eventually(lambda: answers(blobs), within=60, what="the server again")
        assert await blobs.size(sha256(large[1:])) is None
        assert [one.sha256 async for one in blobs.stored()] == [kept.sha256]
        assert await blobs.read_bytes(kept.sha256) == large
        assert (await blobs.write_bytes(large[1:])).sha256 == sha256(large[1:])


async def answers(blobs: S3Blobs) -> bool:
    try:
        await blobs.check()
    except StoreUnavailable:
        return False
    return True


async def test_an_upload_that_fails_leaves_no_parts(client: Minio, blobs: S3Blobs, tmp_path: Path) -> None:
    """The file shrinks while it is sent."""
    path = tmp_path / "shrinks"
    path.write_bytes(bytes(33 << 20))

    class Shrinking(S3Blobs):
        async def _put(self, sha256: str, content: BinaryIO, size: int) -> None:
            path.write_bytes(bytes(20 << 20))
            await super()._put(sha256, content, size)

    with pytest.raises(StoreUnavailable, match="changed"):
        await Shrinking(client, blobs._bucket).write_file(path)
    assert [one async for one in blobs.stored()] == []


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:9000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_named(endpoint: str) -> None:
    with pytest.raises(ValueError, match="not the address of an S3"):
        s3_client(endpoint, "a", "b")
    with pytest.raises(Unfit, match=r"^TRAINWRIGHT_S3_URL: .* is not the address of an S3"):
        engines.blobs(RuntimeSettings(blobs="s3:models", s3_url=endpoint))
