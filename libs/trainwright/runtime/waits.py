"""What a process waits for before it can work, said now and then: on stderr, and by `/health/ready`."""

import asyncio
import logging
import math
from collections.abc import Callable, Coroutine

from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.kafka import UNREACHABLE

logger = logging.getLogger(__name__)

LONGEST_WAIT = 1.0
SAID_EVERY = 15.0
"""Seconds between lines about the same missing part: the first at once, and one whenever the reason changes."""


class Waits:
    """Parts that a process waits for."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._whys: dict[str, str] = {}
        self._said: dict[str, tuple[float, str]] = {}

    async def reach(self, part: str, try_it: Callable[[], Coroutine[None, None, None]]) -> None:
        """Try until it works, and say meanwhile what is waited for."""
        backoff = Backoff(self._clock, most=LONGEST_WAIT)
        self._whys[part] = "not reached yet"
        while True:
            try:
                await try_it()
            except (*UNREACHABLE, StoreUnavailable) as error:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise asyncio.CancelledError from error  # `wait_for` may drop it for what it waited for
                self.note(part, error)
                await backoff.wait()
            else:
                self.came(part)
                return

    def note(self, part: str, why: object) -> None:
        """Note that a part is missing."""
        reason = " ".join(str(why).split())[:300] or type(why).__name__
        self._whys[part] = reason
        now, (at, kind) = self._clock.monotonic(), self._said.get(part, (-math.inf, ""))
        if now - at >= SAID_EVERY or kind != type(why).__name__:
            self._said[part] = (now, type(why).__name__)
            logger.warning("waiting for %s: %s", part, reason)

    def came(self, part: str) -> None:
        """Note that a part is there."""
        self._whys.pop(part, None)
        if self._said.pop(part, None) is not None:
            logger.info("%s is there", part)

    def now(self) -> list[str]:
        """Return what is waited for, each with the reason."""
        return [f"{part}: {why}" for part, why in self._whys.items()]
