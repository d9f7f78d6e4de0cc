"""What a quota can never admit is refused when it is asked for; and quotas are kept as they are told."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.task import domain, handlers
from services.task.reactions import REACTIONS
from services.task.store import COLLECTIONS, find_quota
from tests.runtime_kit import FastClock, record
from tests.unit.task_facts import NOW
from trainwright.contracts.errors import ResourceLimitError
from trainwright.contracts.quota import Strategy, StrategyChanged
from trainwright.contracts.resource import ResourceRequirements
from trainwright.contracts.task_config import SetResources, TaskConfig
from trainwright.contracts.topics import RESOURCE
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, apply
from trainwright.storage.sqlite import SqliteStore


def a_quota(version: int = 1, **fields: Any) -> Strategy:
    return Strategy(
        strategy="vision",
        version=version,
        **{"cpu_percent": 50, "gpu_memory_mb": 8192, "max_workers": 4, **fields},
        actor="tests",
        updated_at=NOW,
    )


@pytest.mark.parametrize(
    ("asks", "quota", "wrong"),
    [
        ({"workers": 4}, {}, []),
        ({"workers": 5}, {}, ["workers"]),
        ({"cpu": 4096}, {}, []),  # a share of CPU cores that only the scheduler knows
        ({"gpu": 1}, {}, []),  # a whole GPU of a size that only the scheduler knows
        ({"gpu": 1}, {"gpu_memory_mb": 0}, ["gpu"]),
        ({}, {"gpu_memory_mb": 0}, []),
        ({"gpu": 1, "gpu_memory": "8Gi"}, {}, []),
        ({"gpu": 1, "gpu_memory": "8193Mi"}, {}, ["gpu_memory"]),
        ({"gpu": 2, "gpu_memory": "4Gi", "workers": 2}, {}, ["gpu_memory"]),
        ({"gpu_memory": "80Gi"}, {}, []),  # without a GPU it means nothing
        ({"gpu": 2, "gpu_memory": "8Gi", "workers": 9}, {}, ["workers", "gpu_memory"]),
    ],
)
def test_what_can_never_be_admitted_is_named_by_field_value_and_fix(
    asks: dict[str, Any], quota: dict[str, Any], wrong: list[str]
) -> None:
    found = domain.never_admitted(ResourceRequirements(**asks), a_quota(**quota), "there.")
    assert [one.path for one in found] == [f"there.{name}" for name in wrong]
    for one in found:
        assert "strategy 'vision' allows" in one.message
        assert "raise the quota" in one.message


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    made = SqliteStore(tmp_path / "task.db", (*COLLECTIONS, DEAD_LETTERS))
    await made.open()
    yield made
    await made.close()


async def tell(store: SqliteStore, strategy: Strategy, number: int) -> None:
    inbound = Inbound("task", RESOURCE, REACTIONS[RESOURCE], store, FastClock())
    await apply([record(StrategyChanged(strategy=strategy), offset=number, id=f"quota-{number}")], inbound)


async def submit(store: SqliteStore, clock: FastClock, **asks: Any) -> str:
    document = {"recipe": "script", "strategy": "vision", "resource_requirements": asks}
    async with store.transaction() as tx:
        task, _ = await handlers.create_task(
            TaskConfig.model_validate(document), run=True, actor="tests", tx=tx, clock=clock
        )
    return task.task_id


async def resize(store: SqliteStore, task_id: str, **asks: Any) -> None:
    async with store.transaction() as tx:
        await handlers.set_resources(task_id, SetResources(**asks), actor="tests", tx=tx, clock=FastClock())


async def test_a_quota_refuses_from_when_it_is_heard_of_until_it_is_removed(store: SqliteStore) -> None:
    clock = FastClock()
    early = await submit(store, clock, workers=3)
    await tell(store, a_quota(1, max_workers=2), 0)
    with pytest.raises(ResourceLimitError) as refused:
        await submit(store, clock, workers=3)
    assert [one.path for one in refused.value.errors] == ["config.resource_requirements.workers"]
    with pytest.raises(ResourceLimitError) as refused:
        await resize(store, early, workers=4)
    assert [one.path for one in refused.value.errors] == ["workers"]
    await resize(store, early, workers=2)
    await tell(store, a_quota(3, max_workers=3), 2)
    await tell(store, a_quota(2, max_workers=1), 1)  # late: the newer one holds
    await submit(store, clock, workers=3)
    await tell(store, a_quota(4, max_workers=3, removed=True), 3)
    assert await find_quota(store, "vision") is None
    await submit(store, clock, workers=4)
