"""Following the stream of events: lines of `text/event-stream` made into events; back again when it breaks."""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from trainwright.contracts.errors import Unavailable

SILENCE = 60.0
"""Seconds without a line, heartbeats included, after which the connection counts as lost."""
FIRST_WAIT, MOST_WAIT = 0.5, 10.0

Open = Callable[[Mapping[str, Any], str | None], AbstractContextManager[Iterator[str]]]
"""Opens the stream with these parameters, after this position, and gives its lines."""


@dataclass(frozen=True, slots=True)
class StreamedEvent:
    """What the stream says. ``kind``: `event`; `gap` when the log has no more of what was asked for; `waiting`.

    ``data`` of an event is the whole CloudEvent, whose `data` is what the event carries. ``position`` is what to
    come back with.
    """

    kind: str
    type: str
    position: str
    data: dict[str, Any]

    @property
    def is_event(self) -> bool:
        """Return whether this was said on the log."""
        return self.kind == "event"


def follow(open: Open, params: Mapping[str, Any]) -> Iterator[StreamedEvent]:
    """Yield events for ever.

    Raises:
        TrainwrightError: The first connection fails, or a later one is refused.
    """
    position: str | None = None
    wait: float | None = None
    while True:
        try:
            with open(params, position) as lines:
                for event in parse(lines, position or ""):
                    wait, position = FIRST_WAIT, event.position or position
                    if event.kind:
                        yield event
        except Unavailable:
            if wait is None:
                raise
        time.sleep(wait or FIRST_WAIT)
        wait = min(2 * (wait or FIRST_WAIT), MOST_WAIT)


def parse(lines: Iterator[str], position: str = "") -> Iterator[StreamedEvent]:
    """Yield what lines say; a mere position has no kind."""
    name, data = "", list[str]()
    for line in lines:
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if field == "event":
            name = value
        elif field == "id":
            position = value
        elif field == "data":
            data.append(value)
        elif not line:
            kind = name if name in ("gap", "waiting") else "event" if data else ""
            yield StreamedEvent(kind, name, position, json.loads("\n".join(data)) if data else {})
            name, data = "", []
