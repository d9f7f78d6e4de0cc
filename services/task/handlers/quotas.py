"""Keep what the scheduler tells of quotas, and refuse at once what one can never admit: it would wait for ever."""

from collections.abc import Sequence

from services.task import domain
from services.task.store import find_quota, note_quota
from trainwright.contracts.base import Event
from trainwright.contracts.errors import ResourceLimitError
from trainwright.contracts.quota import StrategyChanged
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime.clock import Clock
from trainwright.storage.document import Reader, Transaction


async def on_strategy_changed(event: StrategyChanged, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Keep a strategy's quota."""
    await note_quota(tx, event.strategy)
    return []


async def check_quota(config: TaskConfig, reader: Reader, where: str = "") -> None:
    """Do nothing if the quota of a document's strategy can admit it, as far as quotas have been heard of.

    Raises:
        ResourceLimitError: It never can; every field that asks for too much is named.
    """
    quota = None if not config.strategy else await find_quota(reader, config.strategy)
    problems = [] if quota is None else domain.never_admitted(config.resource_requirements, quota, where)
    if problems:
        raise ResourceLimitError("; ".join(f"{one.path}: {one.message}" for one in problems), problems)
