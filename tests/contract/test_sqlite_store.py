"""The document port on SQLite: the contract, and what only a file on a disk can suffer."""

import asyncio
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.contract.document_store import COLLECTIONS, DocumentStoreContract, put
from trainwright.contracts.errors import StoreUnavailable
from trainwright.storage.again import again_if_busy
from trainwright.storage.sqlite import SqliteStore


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "deep" / "things.db", COLLECTIONS)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def other(store: SqliteStore, tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "deep" / "things.db", COLLECTIONS)
    await made.open()
    yield made
    await made.close()


class TestSqliteStore(DocumentStoreContract):
    """SQLite keeps the contract."""


def run(code: str, *args: object) -> subprocess.CompletedProcess[str]:
    """Run code as a process of its own."""
    source = textwrap.dedent(code)
    return subprocess.run(
        [sys.executable, "-c", source, *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )


WRITE_UNTIL_KILLED = """
    import asyncio, os, sys
    from pathlib import Path
    from trainwright.storage.document import Collection, OutboxRow
    from trainwright.storage.sqlite import SqliteStore

    async def main():
        store = SqliteStore(Path(sys.argv[1]), [Collection("things")])
        await store.open()
        last = await store.find("things", sort="-id", limit=1)
        n = int(last.items[0]["id"]) if last.items else 0
        while True:
            n += 1
            async with store.transaction() as tx:
                await tx.put("things", f"{n:08}", {"id": f"{n:08}"})
                await tx.add_outbox([OutboxRow(f"{n:08}", "event", "t", "k", [], b"x" * 3000)])
                assert await tx.newer("scope", "subject", (0, n))
            print(n, flush=True)

    asyncio.run(main())
"""


def write_until_killed(path: Path, after: int) -> int:
    """Let a process write, kill it once it has told of so many commits, return the last one it told of."""
    args = [sys.executable, "-c", textwrap.dedent(WRITE_UNTIL_KILLED), str(path)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = next(n for line in process.stdout if (n := int(line)) >= after)
        process.send_signal(signal.SIGKILL)
        return max([told, *[int(line) for line in process.stdout if line.endswith("\n")]])


async def test_what_was_committed_survives_kill_9_and_nothing_is_half(tmp_path: Path) -> None:
    path = tmp_path / "killed.db"
    told = [write_until_killed(path, after) for after in (5, 23, 60)][-1]
    store = SqliteStore(path, COLLECTIONS)
    await store.open()
    documents = [d["id"] for d in (await store.find("things", limit=10_000)).items]
    rows = [r.id for r in await store.outbox_pending("event", 10_000)]
    assert documents == rows == [f"{n:08}" for n in range(1, len(rows) + 1)]
    assert told <= len(rows) <= told + 1, "what was told as committed is there"
    async with store.transaction() as tx:
        assert not await tx.newer("scope", "subject", (0, len(rows)))
    await store.close()


FULL_DISK = """
    import asyncio, resource, sys
    from pathlib import Path
    from trainwright.contracts.errors import StoreUnavailable
    from trainwright.storage.document import Collection
    from trainwright.storage.sqlite import SqliteStore

    async def main():
        store = SqliteStore(Path(sys.argv[1]), [Collection("things")])
        await store.open()
        async with store.transaction() as tx:
            await tx.put("things", "before", {"id": "before"})
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
        refused = 0
        for _ in range(3):
            try:
                async with store.transaction() as tx:
                    for n in range(100):
                        await tx.put("things", f"big-{n}", {"x": "y" * 5000})
                    await tx.put("things", "late", {"id": "late"})
            except StoreUnavailable as error:
                refused += 1
        assert refused == 3, refused
        assert await store.get("things", "before") == {"id": "before"}
        assert await store.count("things") == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        async with store.transaction() as tx:
            for n in range(100):
                await tx.put("things", f"big-{n}", {"x": "y" * 5000})
        assert await store.count("things") == 101
        await store.close()

    asyncio.run(main())
"""


def test_a_file_that_may_not_grow_is_a_store_that_does_not_answer_and_later_does(tmp_path: Path) -> None:
    done = run(FULL_DISK, tmp_path / "full.db")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("a file system of one's own takes root; the file-size limit above covers the rest")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


async def test_a_full_disk_loses_nothing_and_is_usable_once_there_is_room(small_disk: Path) -> None:
    store = SqliteStore(small_disk / "full.db", COLLECTIONS)
    await store.open()
    try:
        await put(store, "before", {"x": 1})
        fill_up(small_disk / "ballast")
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="full"):
                await put(store, "late", {"x": "y" * 200_000})
            assert await store.get("things", "before") == {"x": 1}
        (small_disk / "ballast").unlink()
        await put(store, "late", {"x": 2})
        assert await store.count("things") == 2
    finally:
        await store.close()


def fill_up(ballast: Path) -> None:
    """Write until the disk is full."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"0" * 4096):
            pass


async def test_a_file_that_is_no_database_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "broken.db"
    path.write_bytes(b"this is no database" * 100)
    store = SqliteStore(path, COLLECTIONS)
    with pytest.raises(StoreUnavailable, match=r"cannot open the store .*broken\.db: file is not a database"):
        await store.open()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await store.get("things", "a")


async def test_a_folder_that_cannot_be_made_is_a_store_that_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StoreUnavailable, match="cannot open the store"):
        await SqliteStore(tmp_path / "file" / "things.db", COLLECTIONS).open()


async def test_what_is_being_read_is_read_before_it_closes_and_who_comes_later_is_told(store: SqliteStore) -> None:
    goes_on = threading.Event()

    def slowly(reader: sqlite3.Connection) -> int:
        goes_on.wait(60)
        return int(reader.execute("SELECT count(*) FROM sqlite_master WHERE name = 'outbox'").fetchone()[0])

    reading = asyncio.create_task(store.read(slowly))
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    late = asyncio.create_task(store.count("things"))
    await asyncio.sleep(0)
    goes_on.set()
    assert await reading == 1
    await closing
    with pytest.raises(StoreUnavailable, match="is closed"):
        await late


async def test_a_closed_store_says_so_and_can_be_opened_again(store: SqliteStore) -> None:
    await put(store, "a", {"x": 1})
    await store.close()
    with pytest.raises(StoreUnavailable, match="is closed"):
        await store.get("things", "a")
    with pytest.raises(StoreUnavailable, match="is closed"):
        await put(store, "a", {"x": 2})
    await store.close()
    await store.open()
    assert await store.get("things", "a") == {"x": 1}


async def test_closing_waits_for_who_reads_and_writes(store: SqliteStore) -> None:
    await put(store, "a", {"x": 1})
    readers = [asyncio.create_task(store.get("things", "a")) for _ in range(20)]
    writers = [asyncio.create_task(put(store, f"w{n}", {})) for n in range(20)]
    await asyncio.sleep(0)
    await store.close()
    assert await asyncio.gather(*readers) == [{"x": 1}] * 20
    outcomes = await asyncio.gather(*writers, return_exceptions=True)
    done = [outcome for outcome in outcomes if outcome is None]
    await store.open()
    assert await store.count("things") == 1 + len(done)


async def test_another_process_that_holds_the_file_is_a_store_that_does_not_answer(
    store: SqliteStore, tmp_path: Path
) -> None:
    await put(store, "a", {"x": 1})
    other = sqlite3.connect(tmp_path / "deep" / "things.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable, match="locked"):
        await put(store, "a", {"x": 2})
    assert await store.get("things", "a") == {"x": 1}
    other.execute("ROLLBACK")
    other.close()
    await put(store, "a", {"x": 2})


async def test_who_met_another_writer_is_done_once_that_one_has_gone(store: SqliteStore, tmp_path: Path) -> None:
    tries = 0
    with contextlib.closing(sqlite3.connect(tmp_path / "deep" / "things.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")

        async def write() -> None:
            nonlocal tries
            tries += 1
            if tries == 2:
                holder.rollback()
            await put(store, "a", {"n": tries})

        await again_if_busy(write)
    found = await store.get("things", "a")
    assert found is not None
    assert (tries, found["n"]) == (2, 2)


async def test_a_statement_that_is_wrong_in_itself_is_not_the_store_s_fault(store: SqliteStore) -> None:
    """Waiting would not mend it: a consumer must put the record aside instead of standing still."""
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        async with store.transaction() as tx:
            await tx.put("unknown", "a", {})
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        await store.get("unknown", "a")
    await put(store, "a", {"x": 1})


async def test_the_order_of_a_list_comes_from_its_index(store: SqliteStore) -> None:
    for order in ("ASC", "DESC"):
        sql = (
            "EXPLAIN QUERY PLAN SELECT id, doc FROM c_things"
            f" ORDER BY json_extract(doc, '$.made') {order}, id {order} LIMIT 10"
        )
        plan = json.dumps(await store.read(partial(explain, sql)))
        assert "c_things.made" in plan
        assert "TEMP B-TREE" not in plan


def explain(sql: str, connection: sqlite3.Connection) -> list[tuple[object, ...]]:
    """Return the rows of a question."""
    return connection.execute(sql).fetchall()
