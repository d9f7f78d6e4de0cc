"""What every request for a change does: one transaction of the change and the events that say it."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from trainwright.contracts.base import Event
from trainwright.runtime.clock import Clock
from trainwright.runtime.http import Caller
from trainwright.runtime.outbox import emit
from trainwright.storage.again import again_if_busy
from trainwright.storage.document import DocumentStore, Transaction

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Change(Protocol[T_co]):
    """A use case: what it answers, and the events that follow."""

    async def __call__(self, *, tx: Transaction, clock: Clock) -> tuple[T_co, Sequence[Event]]: ...


async def done(change: Change[T], *, store: DocumentStore, caller: Caller, clock: Clock) -> T:
    """Do a change, save its events with it, and answer; again if it met another process's."""

    async def once() -> T:
        async with store.transaction() as tx:
            answer, events = await change(tx=tx, clock=clock)
            await emit(tx, events, source="task", cause=caller.cause, clock=clock)
        return answer

    return await again_if_busy(once)
