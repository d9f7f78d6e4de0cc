"""The document port's contract, over the engine in memory; and what may happen at its points."""

import pytest

from tests.contract.document_store import COLLECTIONS, DocumentStoreContract
from trainwright.contracts.errors import StoreUnavailable
from trainwright.storage.memory import MemoryStore


class TestMemoryStore(DocumentStoreContract):
    """Without failures."""

    @pytest.fixture
    def store(self) -> MemoryStore:
        return MemoryStore(COLLECTIONS)

    @pytest.fixture
    def other(self, store: MemoryStore) -> MemoryStore:
        return store


@pytest.mark.parametrize(
    ("point", "written"), [("begin", False), ("before commit", False), ("after commit", True)]
)
async def test_what_happens_at_a_point_happens_there(point: str, written: bool) -> None:
    armed = True

    def at(name: str) -> None:
        if armed and name == point:
            raise StoreUnavailable("as planned")

    store = MemoryStore(COLLECTIONS, at)
    with pytest.raises(StoreUnavailable, match="as planned"):
        async with store.transaction() as tx:
            await tx.put("things", "a", {"x": 1})
    assert (await store.get("things", "a") is not None) is written
    armed = False
    async with store.transaction() as tx:
        await tx.put("things", "a", {"x": 2})
    assert await store.get("things", "a") == {"x": 2}


def test_no_event_loop_is_needed() -> None:
    """A simulation drives it by hand: nothing in it waits."""
    store = MemoryStore(COLLECTIONS)

    async def write() -> object:
        async with store.transaction() as tx:
            await tx.put("things", "a", {"x": 1})
        return await store.get("things", "a")

    with pytest.raises(StopIteration) as ended:
        write().send(None)
    assert ended.value.value == {"x": 1}
