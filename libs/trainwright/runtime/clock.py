"""Time and chance, passed in, so that a simulation can own both. Not here: time zones, formatting."""

import asyncio
import random
import time
import uuid
from datetime import UTC, datetime
from typing import Protocol

NAMESPACE = uuid.UUID("6ba1d1ce-2f0b-4a4c-9d8e-7c5c9c1f3a77")
"""Root of every identifier that is derived from another one."""


class Clock(Protocol):
    """Where services get time, waiting, identifiers and randomness from."""

    def now(self) -> datetime:
        """Return the wall clock's time in UTC: for people and for retention, never for leases."""

    def monotonic(self) -> float:
        """Return seconds that never go back: for leases and time-outs."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""

    def new_id(self, prefix: str) -> str:
        """Return a new identifier, ``<prefix>-<12 hex digits>``."""

    def random(self) -> float:
        """Return a number in [0, 1): for jitter."""


class SystemClock:
    """The machine's clock."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def new_id(self, prefix: str) -> str:
        return f"{prefix}-{uuid.uuid4().hex[:12]}"

    def random(self) -> float:
        return random.random()


def derived_id(*parts: object) -> str:
    """Return the identifier that these parts always give (uuid5)."""
    return str(uuid.uuid5(NAMESPACE, "/".join(map(str, parts))))


class Backoff:
    """Waits that double from ``first`` to ``most`` seconds, each with up to half of it as jitter."""

    def __init__(self, clock: Clock, first: float = 0.1, most: float = 5.0) -> None:
        self._clock = clock
        self._first = first
        self._most = most
        self._next = first

    async def wait(self) -> None:
        """Wait, longer than the last time."""
        delay, self._next = self._next, min(self._next * 2, self._most)
        await self._clock.sleep(delay * (0.75 + self._clock.random() / 2))

    def reset(self) -> None:
        """Begin again from ``first``."""
        self._next = self._first
