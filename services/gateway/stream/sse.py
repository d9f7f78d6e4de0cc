"""Server-sent events: what a subscription finds, as lines of text (the HTML standard's `text/event-stream`)."""

from collections.abc import AsyncIterator

import orjson

from services.gateway.stream.events import Said
from services.gateway.stream.history import Gap
from services.gateway.stream.subscription import Entry, Subscription

RETRY_MS = 1000
UNKNOWN = 0.2
"""Seconds between looks while it is not known where the stream stands; then that is said at once."""
LARGEST = 64 * 1024
"""Bytes that are handed to the connection at a time."""
WAITING = b'event: waiting\ndata: {"detail": "Kafka does not answer; the stream goes on when it does"}\n\n'


async def lines(subscription: Subscription, heartbeat: float) -> AsyncIterator[bytes]:
    """Yield the stream until it is closed from outside.

    After a silence comes a comment with the position, so that who skips many events does not read them again.
    """
    with subscription.listening():
        yield b": a stream of events; `id` is the position to come back with\nretry: %d\n\n" % RETRY_MS
        known = False
        while True:
            batch = await subscription.next(heartbeat if known else min(heartbeat, UNKNOWN))
            if batch.waiting:
                yield WAITING
            elif batch.entries:
                async for chunk in _chunks(batch.entries):
                    yield chunk
            else:
                position = str(subscription.position)
                yield f": heartbeat\nid: {position}\n\n".encode() if position else b": heartbeat\n\n"
            known = known or bool(str(subscription.position))


async def _chunks(entries: list[Entry]) -> AsyncIterator[bytes]:
    pieces: list[bytes] = []
    size = 0
    for position, what in entries:
        piece = _event(position, what)
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST:
            yield b"".join(pieces)
            pieces, size = [], 0
    if pieces:
        yield b"".join(pieces)


def _event(position: str, what: Said | Gap) -> bytes:
    if isinstance(what, Gap):
        return b"id: %s\nevent: gap\ndata: %s\n\n" % (position.encode(), orjson.dumps(gap_document(what)))
    name = what.envelope.type if what.envelope is not None else "message"
    # An attribute of an envelope is anybody's text: a line break in it would begin a field of its own.
    name = name.replace("\n", " ").replace("\r", " ")
    return b"id: %s\nevent: %s\ndata: %s\n\n" % (position.encode(), name.encode(), what.document or b"null")


def gap_document(gap: Gap) -> dict[str, object]:
    """Return what is said of a gap."""
    if gap.topic is None:
        return {"reason": gap.reason, "detail": "the log is another one; reading goes on from its beginning"}
    why = "are not kept any more" if gap.reason == "expired" else "are gone: the log ends before"
    detail = f"{gap.topic}[{gap.partition}]: events from {gap.start} on {why}; reading goes on at {gap.end}"
    return {
        "reason": gap.reason,
        "topic": gap.topic,
        "partition": gap.partition,
        "from": gap.start,
        "to": gap.end,
        "detail": detail,
    }
