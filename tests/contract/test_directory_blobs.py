"""The blob port on a folder: the contract, and what only files can suffer."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest

from tests.contract.blob_store import BlobStoreContract, Damage, drain, pieces, sha256
from trainwright.contracts.errors import StoreUnavailable
from trainwright.storage.directory import DirectoryBlobs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "blobs"


@pytest.fixture
def blobs(root: Path) -> DirectoryBlobs:
    return DirectoryBlobs(root)


@pytest.fixture
def damage(root: Path) -> Damage:
    def write_over(name: str, content: bytes) -> None:
        (root / name[:2] / name).write_bytes(content)

    return write_over


class TestDirectoryBlobs(BlobStoreContract):
    """A folder keeps the contract."""


def stored_files(root: Path) -> list[str]:
    """Return what a reader could find, by name."""
    return sorted(path.name for path in root.glob("??/*"))


def left_aside(root: Path) -> list[Path]:
    """Return what writers have not finished."""
    return list((root / "incoming").iterdir())


async def test_nothing_is_left_aside_after_a_write_that_failed(blobs: DirectoryBlobs, root: Path) -> None:
    async def fails() -> AsyncGenerator[bytes, None]:
        yield b"half"
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        await blobs.write(fails())
    assert (stored_files(root), left_aside(root)) == ([], [])


WRITE_UNTIL_KILLED = """
    import asyncio, sys
    from pathlib import Path
    from trainwright.storage.directory import DirectoryBlobs

    async def slow():
        for n in range(1000):
            yield b"x" * 65536
            print(n, flush=True)
            await asyncio.sleep(0.005)

    asyncio.run(DirectoryBlobs(Path(sys.argv[1])).write(slow()))
"""


def test_a_killed_writer_leaves_nothing_that_can_be_read(root: Path) -> None:
    args = [sys.executable, "-c", textwrap.dedent(WRITE_UNTIL_KILLED), str(root)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert next(n for line in process.stdout if (n := int(line)) >= 10) == 10
        process.send_signal(signal.SIGKILL)
    assert stored_files(root) == []
    assert len(left_aside(root)) == 1


async def test_what_a_killed_writer_left_goes_a_day_later(blobs: DirectoryBlobs, root: Path) -> None:
    incoming = root / "incoming"
    incoming.mkdir(parents=True)
    for name, hours in (("old", 25), ("young", 23)):
        (incoming / name).write_bytes(b"half")
        os.utime(incoming / name, times=(time.time() - hours * 3600,) * 2)
    await blobs.write_bytes(b"content")
    assert [path.name for path in left_aside(root)] == ["young"]


MEMORY_OF_A_LARGE_STREAM = """
    import asyncio, resource, sys
    from pathlib import Path
    from trainwright.storage.directory import DirectoryBlobs

    async def stream():
        chunk = bytes(1 << 20)
        for _ in range(200):
            yield chunk

    async def main():
        blobs = DirectoryBlobs(Path(sys.argv[1]))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        blob = await blobs.write(stream())
        assert blob.size == 200 << 20
        async for chunk in blobs.read(blob.sha256):
            pass
        await blobs.read_file(blob.sha256, Path(sys.argv[1]) / "out")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    asyncio.run(main())
"""


def test_a_stream_of_200_mb_takes_little_memory(root: Path) -> None:
    args = [sys.executable, "-c", textwrap.dedent(MEMORY_OF_A_LARGE_STREAM), str(root)]
    done = subprocess.run(args, capture_output=True, text=True, timeout=120, check=True)
    unit = 1024 if sys.platform == "darwin" else 1
    assert int(done.stdout) / unit < 16 * 1024


@pytest.fixture
def small_disk(root: Path) -> Iterator[Path]:
    root.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(root)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system of one's own takes root")
    yield root
    subprocess.run(["umount", str(root)], check=True)


async def test_a_full_disk_is_a_store_that_does_not_answer_and_later_does(
    blobs: DirectoryBlobs, small_disk: Path
) -> None:
    kept = await blobs.write_bytes(b"kept")
    for _ in range(2):
        with pytest.raises(StoreUnavailable, match="No space left"):
            await blobs.write(pieces(*[b"x" * 65536] * 64))
    assert left_aside(small_disk) == [], "what could not be stored does not fill the disk"
    assert await blobs.read_bytes(kept.sha256) == b"kept"
    assert (await blobs.write(pieces(*[b"x" * 65536] * 16))).size == 1 << 20


async def test_a_folder_that_cannot_be_used_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    blobs = DirectoryBlobs(tmp_path / "file")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        await blobs.write_bytes(b"content")
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        await blobs.size(sha256(b"content"))
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        await drain(blobs.read(sha256(b"content")))


async def test_two_processes_share_a_folder(root: Path) -> None:
    """Two engines stand for two processes: they share nothing but the folder."""
    one, other = DirectoryBlobs(root), DirectoryBlobs(root)
    stored = await asyncio.gather(*[engine.write_bytes(b"content") for engine in (one, other) for _ in range(5)])
    assert len(set(stored)) == 1
    assert await other.read_bytes(stored[0].sha256) == b"content"
