"""A server at one address, which is killed and is there again."""

from abc import ABC, abstractmethod
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from trainwright.embedded.archive import free_ports


class Mortal(ABC):
    """Starts with the block, ends with it; ``_stack`` holds what runs now."""

    def __init__(self) -> None:
        (self._port,) = free_ports(1)
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @abstractmethod
    def _start(self) -> None:
        """Start it at its address."""
