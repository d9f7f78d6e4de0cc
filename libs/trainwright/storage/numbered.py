"""What is numbered by its sender, so that repeats can be told. Not here: where the last number is kept."""

import time
from collections.abc import Iterable
from typing import Protocol, TypeVar
from uuid import uuid4


class Numbered(Protocol):
    """Has a number that grows."""

    @property
    def seq(self) -> int:
        """Return the number."""


N = TypeVar("N", bound=Numbered)


def above(mark: int, items: Iterable[N]) -> list[N]:
    """Return the items whose number is above ``mark`` and above those before them."""
    fresh = []
    for item in items:
        if item.seq > mark:
            fresh.append(item)
            mark = item.seq
    return fresh


class RowNumbers:
    """Numbers of outbox rows: they grow in this process, and follow the clock over restarts and replicas."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        """Return a number above the last one: microseconds since 1970, and a byte that tells replicas apart."""
        self._last = max((time.time_ns() // 1000) << 8 | uuid4().bytes[0], self._last + 1)
        return self._last
