"""What every engine of the blob port must do. An engine inherits the class and gives its ``blobs`` fixture.

``damage`` is the engine's way to change what is stored behind the port's back.
"""

import asyncio
import hashlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path

import pytest

from trainwright.contracts.errors import Damaged, NotFound, TooLarge
from trainwright.storage.blob import CHUNK, Blob, BlobStore

Damage = Callable[[str, bytes], None]


class SourceFailed(Exception):
    """What a stream's sender raises."""


async def pieces(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    """Stream chunks."""
    for chunk in chunks:
        await asyncio.sleep(0)
        yield chunk


async def broken_off(*chunks: bytes) -> AsyncGenerator[bytes, None]:
    """Stream chunks, then fail."""
    for chunk in chunks:
        yield chunk
    raise SourceFailed


def sha256(content: bytes) -> str:
    """Return a content's name."""
    return hashlib.sha256(content).hexdigest()


async def drain(stream: AsyncIterator[bytes]) -> list[bytes]:
    """Read a stream to its end."""
    return [chunk async for chunk in stream]


class BlobStoreContract:
    """Content comes back as it was given, or not at all."""

    @pytest.mark.parametrize("chunks", [[b""], [], [b"a"], [b"a", b"", b"bc"], [b"x" * CHUNK, b"y" * (CHUNK + 1)]])
    async def test_a_stream_comes_back(self, blobs: BlobStore, chunks: list[bytes]) -> None:
        content = b"".join(chunks)
        assert await blobs.write(pieces(*chunks)) == Blob(sha256(content), len(content))
        assert await blobs.size(sha256(content)) == len(content)
        assert b"".join(await drain(blobs.read(sha256(content)))) == content

    async def test_what_is_large_is_read_in_pieces(self, blobs: BlobStore) -> None:
        stored = await blobs.write_bytes(b"z" * (3 * CHUNK + 1))
        assert max(map(len, await drain(blobs.read(stored.sha256)))) <= CHUNK

    async def test_bytes_and_files_and_streams_are_the_same_content(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(b"content")
        stored = {await blobs.write_bytes(b"content"), await blobs.write_file(source)}
        assert stored == {await blobs.write(pieces(b"con", b"tent"))}
        assert await blobs.read_bytes(sha256(b"content")) == b"content"

    async def test_a_limit_is_held_and_leaves_nothing(self, blobs: BlobStore) -> None:
        assert (await blobs.write(pieces(b"12345", b"67890"), limit=10)).size == 10
        with pytest.raises(TooLarge, match="10 bytes"):
            await blobs.write(pieces(b"12345", b"67890", b"1"), limit=10)
        assert await blobs.size(sha256(b"12345678901")) is None

    async def test_a_limit_stops_reading_the_source(self, blobs: BlobStore) -> None:
        given = 0

        async def endless() -> AsyncGenerator[bytes, None]:
            nonlocal given
            while True:
                given += 1
                yield b"x" * 1000

        with pytest.raises(TooLarge):
            await blobs.write(endless(), limit=10_000)
        assert given == 11

    async def test_a_source_that_fails_is_not_the_store_s_fault_and_leaves_nothing(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        with pytest.raises(SourceFailed):
            await blobs.write(broken_off(b"half"))
        assert await blobs.size(sha256(b"half")) is None
        with pytest.raises(FileNotFoundError):
            await blobs.write_file(tmp_path / "missing")

    @pytest.mark.parametrize("name", ["0" * 64, "", "x", "../../../etc/passwd", "A" * 64, "0" * 63 + "/"])
    async def test_what_is_not_stored_is_not_found(self, blobs: BlobStore, tmp_path: Path, name: str) -> None:
        assert await blobs.size(name) is None
        with pytest.raises(NotFound):
            await drain(blobs.read(name))
        with pytest.raises(NotFound):
            await blobs.read_bytes(name)
        with pytest.raises(NotFound):
            await blobs.read_file(name, tmp_path / "out" / "file")
        assert list((tmp_path / "out").iterdir()) == []

    @pytest.mark.parametrize("instead", [b"", b"conten", b"content!", b"cOntent"])
    async def test_damage_is_found_on_read(
        self, blobs: BlobStore, damage: Damage, tmp_path: Path, instead: bytes
    ) -> None:
        stored = await blobs.write_bytes(b"content")
        damage(stored.sha256, instead)
        with pytest.raises(Damaged, match=stored.sha256):
            await drain(blobs.read(stored.sha256))
        with pytest.raises(Damaged):
            await blobs.read_file(stored.sha256, tmp_path / "out" / "file")
        assert list((tmp_path / "out").iterdir()) == [], "nothing damaged is handed out as a file"

    async def test_writing_again_mends_damage(self, blobs: BlobStore, damage: Damage) -> None:
        stored = await blobs.write_bytes(b"content")
        damage(stored.sha256, b"cOntent")
        await blobs.write_bytes(b"content")
        assert await blobs.read_bytes(stored.sha256) == b"content"

    async def test_a_file_is_made_with_its_folders_and_replaced_whole(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        stored = await blobs.write_bytes(b"new")
        target = tmp_path / "a" / "b" / "file.txt"
        target.parent.mkdir(parents=True)
        target.write_bytes(b"old and longer")
        await blobs.read_file(stored.sha256, target)
        assert target.read_bytes() == b"new"
        assert [path.name for path in target.parent.iterdir()] == ["file.txt"]

    async def test_the_same_content_may_be_written_and_read_many_times_at_once(
        self, blobs: BlobStore, tmp_path: Path
    ) -> None:
        content = bytes(range(256)) * 8192
        stored = set(await asyncio.gather(*[blobs.write_bytes(content) for _ in range(12)]))
        assert stored == {Blob(sha256(content), len(content))}
        target = tmp_path / "out" / "file"
        await asyncio.gather(*[blobs.read_file(sha256(content), target) for _ in range(12)])
        assert target.read_bytes() == content
        assert [path.name for path in target.parent.iterdir()] == ["file"]

    async def test_a_cancelled_write_leaves_nothing(self, blobs: BlobStore) -> None:
        async def stalled() -> AsyncGenerator[bytes, None]:
            yield b"half"
            await asyncio.sleep(60)

        task = asyncio.create_task(blobs.write(stalled()))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await blobs.size(sha256(b"half")) is None

    async def test_a_reader_may_stop_early(self, blobs: BlobStore) -> None:
        stored = await blobs.write_bytes(b"x" * (3 * CHUNK))
        async for chunk in blobs.read(stored.sha256):
            assert len(chunk) == CHUNK
            break
        assert len(await blobs.read_bytes(stored.sha256)) == 3 * CHUNK

    async def test_an_area_is_a_store_of_its_own(self, blobs: BlobStore) -> None:
        stored = await blobs.write_bytes(b"shared")
        first, second = blobs.area("checkpoints/task-1"), blobs.area("checkpoints/task-2")
        assert await first.size(stored.sha256) is None
        for area in (first, second):
            assert await area.write_bytes(b"shared") == stored
        assert await first.delete(stored.sha256)
        assert not await first.delete(stored.sha256), "a second time there is nothing to delete"
        assert await first.size(stored.sha256) is None
        for other in (second, blobs):
            assert await other.read_bytes(stored.sha256) == b"shared"

    async def test_what_was_written_again_is_not_deleted_for_being_old(self, blobs: BlobStore) -> None:
        area = blobs.area("checkpoints/task-1")
        stored = await area.write_bytes(b"again")
        (listed,) = [one async for one in area.stored()]
        assert not await area.delete(stored.sha256, unless_after=listed.modified - 1)
        assert await area.read_bytes(stored.sha256) == b"again"
        assert await area.delete(stored.sha256, unless_after=listed.modified)
        assert not await area.delete(stored.sha256, unless_after=listed.modified)

    async def test_what_is_written_again_within_the_second_is_not_deleted(self, blobs: BlobStore) -> None:
        area = blobs.area("checkpoints/task-1")
        stored = await area.write_bytes(b"again")
        (listed,) = (newer,) = [one async for one in area.stored()]
        while newer.modified == listed.modified:
            await area.write_bytes(b"again")
            (newer,) = [one async for one in area.stored()]
        assert not await area.delete(stored.sha256, unless_after=listed.modified)

    async def test_a_listing_shows_an_areas_own_blobs(self, blobs: BlobStore) -> None:
        await blobs.write_bytes(b"elsewhere")
        area = blobs.area("checkpoints/task-1")
        assert [one async for one in area.stored()] == []
        stored = [await area.write_bytes(content) for content in (b"a", b"bc")]
        found = {one.sha256: one async for one in area.stored()}
        assert {one.sha256: one.size for one in stored} == {name: one.size for name, one in found.items()}
        assert all(abs(one.modified - time.time()) < 60 for one in found.values())

    async def test_areas_are_found_by_the_one_above(self, blobs: BlobStore) -> None:
        assert [name async for name in blobs.areas("checkpoints")] == []
        for number in (2, 1):
            await blobs.area(f"checkpoints/task-{number}").write_bytes(b"x")
        assert sorted([name async for name in blobs.areas("checkpoints")]) == [
            "checkpoints/task-1",
            "checkpoints/task-2",
        ]

    async def test_the_check_leaves_nothing_and_may_be_done_again(self, blobs: BlobStore) -> None:
        await asyncio.gather(blobs.check(), blobs.check(), blobs.area("checkpoints/task-1").check())
        for area in (blobs, blobs.area("probe"), blobs.area("checkpoints/task-1")):
            assert [one async for one in area.stored()] == []

    @pytest.mark.parametrize("name", ["", "..", "a/../b", "/a", "a/", ".hidden", "a//b", "a\n"])
    def test_an_area_cannot_lie_elsewhere(self, blobs: BlobStore, name: str) -> None:
        with pytest.raises(ValueError, match="area"):
            blobs.area(name)
