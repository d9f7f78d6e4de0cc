"""Dead letters over HTTP: list, show, and replay through the service's own handlers."""

import base64

from fastapi import APIRouter

from trainwright.contracts.dead import DeadLetter, DeadLetterList
from trainwright.contracts.errors import Conflict, NotFound, StoreUnavailable
from trainwright.runtime.apply import DEAD_LETTERS, Inbound, apply, carried
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.envelope import Reread
from trainwright.runtime.service import Service

LISTED = 100


def to_record(letter: DeadLetter) -> Reread:
    """Return the record that a dead letter keeps."""
    return Reread(
        topic=letter.topic,
        partition=letter.partition,
        offset=letter.offset,
        key=_bytes(letter.key_b64),
        value=_bytes(letter.value_b64),
        headers=[(name, base64.b64decode(value)) for name, value in letter.headers],
    )


def dead_routes(service: Service) -> APIRouter:
    """Return the routes of one service's dead letters."""
    router = APIRouter(prefix=f"/dead/{service.name}", tags=["dead letters"])
    store = service.store

    async def letter_of(dead_id: str) -> DeadLetter:
        found = await store.get(DEAD_LETTERS.name, dead_id)
        if found is None:
            raise NotFound(f"{service.name} has no dead letter {dead_id}")
        return DeadLetter.model_validate(found)

    @router.get("", summary="The newest dead letters of a service; large values only one by one")
    async def list_dead() -> DeadLetterList:
        page = await store.find(DEAD_LETTERS.name, sort="-time", limit=LISTED)
        letters = [DeadLetter.model_validate(item) for item in page.items]
        return DeadLetterList(dead_letters=[carried(letter) for letter in letters])

    @router.get("/{dead_id}", summary="One dead letter")
    async def show_dead(dead_id: str) -> DeadLetter:
        return await letter_of(dead_id)

    @router.post("/{dead_id}/replay", summary="Apply a dead letter again")
    async def replay_dead(dead_id: str) -> DeadLetter:
        letter = await letter_of(dead_id)
        return await replay(letter, service)

    return router


async def replay(letter: DeadLetter, service: Service) -> DeadLetter:
    """Apply a dead letter through the service's own handlers.

    Raises:
        Conflict: It fails again.
    """
    topic = next((topic for topic in service.reactions if topic.name == letter.topic), None)
    if topic is None:
        raise Conflict(f"{service.name} does not read {letter.topic} any more")
    clock = SystemClock()
    handlers, store = service.reactions[topic], service.store
    inbound = Inbound(service.name, topic, handlers, store, clock, service.follow_up)
    try:
        await apply([to_record(letter)], inbound)
    except StoreUnavailable:
        raise
    except Exception as error:
        raise Conflict(f"it fails again: {type(error).__name__}: {error}") from error
    replayed = letter.model_copy(update={"replayed_at": clock.now()})
    async with service.store.transaction() as tx:
        await tx.put(DEAD_LETTERS.name, letter.dead_id, replayed.model_dump(mode="json"))
    return replayed


def _bytes(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)
