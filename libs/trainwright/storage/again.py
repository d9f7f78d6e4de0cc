"""Do a transaction again that met another process's: of two that write one document, one is refused."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from trainwright.contracts.errors import StoreBusy

T = TypeVar("T")

TRIES = 8


async def again_if_busy(work: Callable[[], Awaitable[T]]) -> T:
    """Return what some work returns that is one transaction; a person who asks need not know of its tries.

    Raises:
        StoreBusy: It met others each time.
    """
    for number in range(1, TRIES):
        try:
            return await work()
        except StoreBusy:
            await asyncio.sleep(0.005 * 2**number * random.random())
    return await work()
