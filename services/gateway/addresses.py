"""The addresses of one service: its replicas take turns; one that takes no connection is left out for a moment.

A single name behind which there are several machines is one address here: connecting tries each of them.
"""

import asyncio
from collections.abc import Sequence

LEFT_OUT_SECONDS = 2.0


class Addresses:
    """Where a service's replicas answer."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = list(urls)
        self._out_until: dict[str, float] = {}
        self._turn = 0

    def __str__(self) -> str:
        return ", ".join(self._urls)

    def in_turn(self) -> list[str]:
        """Return all addresses in the order to try them; those that did not answer lately come last."""
        self._turn = (self._turn + 1) % len(self._urls)
        now = asyncio.get_running_loop().time()
        turned = self._urls[self._turn :] + self._urls[: self._turn]
        return sorted(turned, key=lambda url: self._out_until.get(url, 0.0) > now)

    def leave_out(self, url: str) -> None:
        """Note that an address took no connection, or hung up without an answer."""
        self._out_until[url] = asyncio.get_running_loop().time() + LEFT_OUT_SECONDS
