"""What is kept of webhooks: themselves with their secrets, how far each was told, and what was delivered."""

from typing import Any

from pydantic import Field

from services.gateway.stream.events import Filter, filter_of
from trainwright.contracts.base import Contract, Timestamp
from trainwright.contracts.errors import NotFound
from trainwright.contracts.webhook import Delivery, WebhookView
from trainwright.storage.document import Collection, DocumentStore, Page, Reader, Transaction

WEBHOOKS = Collection("webhooks", indexes=("created_at",))
CURSORS = Collection("webhook_cursors")
DELIVERIES = Collection("webhook_deliveries", indexes=("webhook_id", "first_try_at"))
COLLECTIONS = (WEBHOOKS, CURSORS, DELIVERIES)

MOST = 200
"""Webhooks that there may be."""


class Key(Contract):
    """A secret, and when it stops to count (None: it is the newest)."""

    secret: str = Field(repr=False)
    until: Timestamp | None = None


class Webhook(Contract):
    """A webhook as it is kept; ``version`` grows with every change that its courier must know of."""

    webhook_id: str
    version: int = 1
    url: str
    types: list[str] = []
    topics: list[str] = []
    subject: str | None = None
    description: str = ""
    active: bool = True
    disabled_reason: str | None = None
    created_at: Timestamp
    updated_at: Timestamp
    keys: list[Key] = Field(repr=False)

    @property
    def filter(self) -> Filter:
        """Return which events it wants."""
        return filter_of(self.types, self.topics, self.subject)


class Cursor(Contract):
    """How far a webhook was told: after ``position``, or from a moment on while there is none."""

    webhook_id: str
    position: str | None = None
    start: Timestamp | None = None
    last_delivered_at: Timestamp | None = None
    failing_since: Timestamp | None = None


def view(webhook: Webhook, cursor: Cursor) -> WebhookView:
    """Return what is shown of a webhook."""
    return WebhookView.model_validate(cursor.model_dump() | webhook.model_dump(exclude={"keys"}))


async def find_webhook(store: Reader, webhook_id: str) -> Webhook | None:
    """Return a webhook."""
    document = await store.get(WEBHOOKS.name, webhook_id)
    return None if document is None else Webhook.model_validate(document)


async def known_webhook(store: Reader, webhook_id: str) -> Webhook:
    """Return a webhook.

    Raises:
        NotFound: There is none of this id.
    """
    found = await find_webhook(store, webhook_id)
    if found is None:
        raise NotFound(f"there is no webhook {webhook_id[:100]!r}")
    return found


async def find_cursor(store: Reader, webhook_id: str) -> Cursor:
    """Return how far a webhook was told."""
    document = await store.get(CURSORS.name, webhook_id)
    return Cursor(webhook_id=webhook_id) if document is None else Cursor.model_validate(document)


async def all_webhooks(store: Reader) -> list[Webhook]:
    """Return every webhook, oldest first."""
    page = await store.find(WEBHOOKS.name, sort="created_at", limit=MOST)
    return [Webhook.model_validate(document) for document in page.items]


async def save_webhook(tx: Transaction, webhook: Webhook) -> None:
    """Keep a webhook."""
    await tx.put(WEBHOOKS.name, webhook.webhook_id, webhook.model_dump(mode="json"))


async def save_cursor(tx: Transaction, cursor: Cursor) -> None:
    """Keep how far a webhook was told."""
    await tx.put(CURSORS.name, cursor.webhook_id, cursor.model_dump(mode="json"))


async def find_delivery(store: Reader, delivery_id: str) -> Delivery | None:
    """Return a delivery."""
    document = await store.get(DELIVERIES.name, delivery_id)
    return None if document is None else Delivery.model_validate(document)


async def save_delivery(tx: Transaction, delivery: Delivery) -> None:
    """Keep a delivery."""
    await tx.put(DELIVERIES.name, delivery.delivery_id, delivery.model_dump(mode="json"))


async def find_deliveries(
    store: Reader, webhook_id: str, status: str | None, limit: int, cursor: str | None
) -> Page:
    """Return a page of deliveries, newest first."""
    where: dict[str, Any] = {"webhook_id": webhook_id} | ({"status": status} if status else {})
    return await store.find(DELIVERIES.name, where, sort="-first_try_at", limit=limit, cursor=cursor)


async def forget_deliveries(store: DocumentStore, webhook_id: str, keep: int) -> None:
    """Remove all deliveries of a webhook but the newest."""
    where = {"webhook_id": webhook_id}
    while (over := await store.count(DELIVERIES.name, where) - keep) > 0:
        page = await store.find(DELIVERIES.name, where, sort="first_try_at", limit=min(over, 500))
        async with store.transaction() as tx:
            for document in page.items:
                await tx.delete(DELIVERIES.name, document["delivery_id"])
