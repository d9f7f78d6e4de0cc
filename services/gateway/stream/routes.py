"""`GET /events`: everything that is said, as server-sent events."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse
from pydantic import BeforeValidator, Field

from services.gateway.settings import GatewaySettings
from services.gateway.stream.events import filter_of
from services.gateway.stream.feed import Feed
from services.gateway.stream.position import Position, parse
from services.gateway.stream.sse import lines
from services.gateway.stream.subscription import Start, Subscription
from trainwright.contracts.base import Request
from trainwright.contracts.errors import Unavailable
from trainwright.contracts.webhook import Start as StartAt

Absent = BeforeValidator(lambda value: None if value == "" else value)
"""An empty query parameter is one that was left out."""

Now = BeforeValidator(lambda value: "now" if value == "" else value)


def split(value: Any) -> Any:
    """Return a list of words: given many times, or with commas, or both."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return value
    return [part.strip() for word in words for part in word.split(",") if part.strip()]


Words = Annotated[list[str], BeforeValidator(split)]

EXAMPLE = (
    "id: 3f9a1c07@queue:7,task:12\n"
    "event: trainwright.task.TaskReady.v1\n"
    'data: {"specversion":"1.0","id":"…","type":"trainwright.task.TaskReady.v1","subject":"task-…",…}\n\n'
)
RESPONSES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events as they come, until one side closes",
        "content": {"text/event-stream": {"schema": {"type": "string"}, "example": EXAMPLE}},
    }
}


class EventQuery(Request):
    """Which events to send, and from where on."""

    types: Words = Field(
        [], max_length=100, description="Only these: `TaskReady` or its full name; commas or repeated."
    )
    topics: Words = Field(
        [],
        max_length=100,
        description="Only these: `task` …; without, all but `pulse`, `metric` and `log`, which must be named.",
    )
    subject: Annotated[str | None, Absent] = Field(
        None, max_length=200, description="Only what is about this task (or worker, for what workers say)."
    )
    start: Annotated[StartAt, Now] = Field(
        "now", description="`beginning`, `now`, or a moment from which on; UTC if unsaid."
    )
    after: Annotated[str | None, Absent] = Field(
        None,
        max_length=4000,
        description="A position: the `id` of the last event that was seen; wins over `start`.",
    )


def start_of(query: EventQuery, last_event_id: str | None) -> Start:
    """Return where a stream begins: the header of who comes back wins over what the address says.

    Raises:
        InvalidInput: A position is none.
    """
    if last_event_id:
        return parse(last_event_id, "Last-Event-ID")
    if query.after:
        return parse(query.after)
    if isinstance(query.start, datetime):
        return query.start
    return Position() if query.start == "beginning" else None


class Places:
    """How many streams are open, and how many may be."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.taken = 0

    def check(self) -> None:
        """Make sure that there is one left.

        Raises:
            Unavailable: There is none.
        """
        if self.taken >= self._most:
            raise Unavailable(f"{self._most} streams of events are open here, which is the limit; come back later")


class EventStream(StreamingResponse):
    """A stream that is never kept, nor held back by what stands between."""

    media_type = "text/event-stream"


def build_router(feed: Feed, settings: GatewaySettings) -> APIRouter:
    """Return the route of the stream."""
    router = APIRouter(tags=["events"])
    places = Places(settings.streams)

    @router.get(
        "/events", summary="Everything that is said, live", response_class=EventStream, responses=RESPONSES
    )
    async def stream_events(
        query: Annotated[EventQuery, Query()],
        last_event_id: Annotated[
            str | None,
            Header(description="The `id` of the last event that was seen; the stream goes on after it."),
        ] = None,
    ) -> EventStream:
        """Server-sent events: `event` is a type, `data` the event as JSON of CloudEvents, `id` a position.

        Come back with the last `id` (as `Last-Event-ID` or `after`), at any gateway: nothing is missing, nothing
        repeated. `gap` events say what the log has no more; `waiting` that Kafka does not answer.
        """
        filter = filter_of(query.types, query.topics, query.subject)
        subscription = Subscription(feed, filter, start_of(query, last_event_id))
        places.check()

        async def counted() -> AsyncIterator[bytes]:
            places.taken += 1
            try:
                async for chunk in lines(subscription, settings.heartbeat_seconds):
                    yield chunk
            finally:
                places.taken -= 1

        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return EventStream(counted(), headers=headers)

    return router
