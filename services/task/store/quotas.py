"""Quotas of declared strategies, as the scheduler told them."""

from trainwright.contracts.quota import Strategy
from trainwright.storage.document import Collection, Reader, Transaction

QUOTAS = Collection("quotas")


async def note_quota(tx: Transaction, strategy: Strategy) -> None:
    """Keep a strategy's newest quota; one that was removed is none."""
    if strategy.removed:
        await tx.delete(QUOTAS.name, strategy.strategy)
    else:
        await tx.put(QUOTAS.name, strategy.strategy, strategy.model_dump(mode="json"))


async def find_quota(reader: Reader, strategy: str) -> Strategy | None:
    """Return a strategy's quota, or None where none is declared."""
    found = await reader.get(QUOTAS.name, strategy)
    return None if found is None else Strategy.model_validate(found)
