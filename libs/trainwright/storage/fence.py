"""The lease of a store: which of a service's processes may do what only one of them may do.

A store keeps one lease. Its ``epoch`` grows with each take-over. Work that is done under it carries the epoch in
``FENCE``: a transaction that finds another epoch fails with ``LeaseLost`` and changes nothing, however long its
process slept in between. Not here: who challenges whom, and when (``runtime/lease.py``).
"""

import asyncio
from contextvars import ContextVar
from dataclasses import dataclass

from trainwright.contracts.errors import LeaseLost


@dataclass(frozen=True, slots=True)
class LeaseState:
    """Who has the lease; ``beat`` changes as long as the holder is at work."""

    holder: str | None = None
    epoch: int = 0
    beat: int = 0


class Fence:
    """The epoch that some work is done under, and whether it is over."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch
        self._broken = asyncio.Event()

    def fail(self) -> LeaseLost:
        """Note that another epoch has begun; return the error that says so."""
        self._broken.set()
        return LeaseLost(f"another process has taken over since epoch {self.epoch}")

    async def wait(self) -> None:
        """Wait until another epoch has begun."""
        await self._broken.wait()


FENCE: ContextVar[Fence | None] = ContextVar("fence", default=None)
"""Set for the tasks that run under a lease, and for what they call; requests over HTTP run without."""
