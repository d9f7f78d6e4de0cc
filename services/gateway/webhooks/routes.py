"""`/webhooks`: who is told of events, what was told, and telling it again."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from pydantic import BeforeValidator, Field, SecretStr, TypeAdapter, ValidationError

from services.gateway.stream.events import filter_of
from services.gateway.stream.position import Position, parse
from services.gateway.webhooks import store as kept
from services.gateway.webhooks.courier import Parts, test_letter, tried
from services.gateway.webhooks.guard import check_url
from services.gateway.webhooks.signing import check_secret, new_secret
from trainwright.contracts.base import Request, Timestamp
from trainwright.contracts.errors import Conflict, FieldError, InvalidInput, NotFound
from trainwright.contracts.webhook import (
    ChangeWebhook,
    CreateWebhook,
    Delivery,
    DeliveryPage,
    DeliveryStatus,
    ReplayWebhook,
    RotateSecret,
    WebhookList,
    WebhookSecret,
    WebhookView,
)
from trainwright.storage.document import Transaction

WebhookId = Annotated[str, Path(max_length=100, examples=["webhook-0123456789ab"])]
Absent = BeforeValidator(lambda value: None if value == "" else value)
DEFAULT_LIMIT = 100
OVERLAP = timedelta(hours=24)
"""How long an old secret signs beside the new one."""
ALWAYS = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = TypeAdapter[datetime](Timestamp)


class DeliveryQuery(Request):
    """Which deliveries to return."""

    status: Annotated[DeliveryStatus | None, Absent] = Field(None, description="Only these.")
    limit: Annotated[int | None, Absent] = Field(None, ge=1, le=1000, description=f"{DEFAULT_LIMIT} by default.")
    cursor: Annotated[str | None, Absent] = Field(
        None, max_length=500, description="`next_cursor` of another page."
    )


def build_router(parts: Parts) -> APIRouter:
    """Return the routes of webhooks."""
    router = APIRouter(prefix="/webhooks", tags=["webhooks"])
    store, clock, allowed = parts.store, parts.clock, parts.settings.webhook_networks

    @router.post("", status_code=201, summary="Have events posted to an address")
    async def create_webhook(body: CreateWebhook) -> WebhookSecret:
        """The answer shows the secret, once. Each event is posted, signed, until the receiver answers 2xx."""
        filter_of(body.types, body.topics, body.subject)
        secret = _secret(body.secret)
        await check_url(body.url, allowed)
        now = clock.now()
        webhook = kept.Webhook.model_validate(
            body.model_dump(exclude={"secret", "start"})
            | {"webhook_id": clock.new_id("webhook"), "created_at": now, "updated_at": now}
            | {"keys": [kept.Key(secret=secret)]}
        )
        start = body.start if isinstance(body.start, datetime) else ALWAYS if body.start == "beginning" else now
        cursor = kept.Cursor(webhook_id=webhook.webhook_id, start=start)
        async with store.transaction() as tx:
            if await tx.count(kept.WEBHOOKS.name) >= kept.MOST:
                raise Conflict(f"there are {kept.MOST} webhooks, which is the limit; remove one first")
            await kept.save_webhook(tx, webhook)
            await kept.save_cursor(tx, cursor)
        return _with_secret(webhook, cursor, secret)

    @router.get("", summary="All webhooks, oldest first")
    async def list_webhooks() -> WebhookList:
        return WebhookList(webhooks=[await _shown(parts, webhook) for webhook in await kept.all_webhooks(store)])

    @router.get("/{webhook_id}", summary="One webhook, and how it stands")
    async def show_webhook(webhook_id: WebhookId) -> WebhookView:
        return await _shown(parts, await kept.known_webhook(store, webhook_id))

    _add_changes(router, parts)
    _add_deliveries(router, parts)
    return router


def _add_changes(router: APIRouter, parts: Parts) -> None:
    store, clock, allowed = parts.store, parts.clock, parts.settings.webhook_networks

    @router.patch("/{webhook_id}", summary="Change, pause or go on with a webhook")
    async def change_webhook(webhook_id: WebhookId, body: ChangeWebhook) -> WebhookView:
        """What is left out stays. Switched on again, it goes on where it stopped."""
        changes = {name: getattr(body, name) for name in body.model_fields_set}
        changes = {name: value for name, value in changes.items() if value is not None or name == "subject"}
        if body.url is not None:
            await check_url(body.url, allowed)
        async with store.transaction() as tx:
            webhook = await kept.known_webhook(tx, webhook_id)
            changed = webhook.model_copy(update=changes)
            topics = filter_of(changed.types, changed.topics, changed.subject).topics
            if body.active:
                changed = changed.model_copy(update={"disabled_reason": None})
            cursor = await kept.find_cursor(tx, webhook_id)
            await kept.save_cursor(tx, _fitting(cursor, topics, afresh=bool(body.active)))
            changed = await _save(tx, changed, clock.now())
        return await _shown(parts, changed)

    @router.delete("/{webhook_id}", status_code=204, summary="Remove a webhook and its log of deliveries")
    async def remove_webhook(webhook_id: WebhookId) -> Response:
        async with store.transaction() as tx:
            await kept.known_webhook(tx, webhook_id)
            await tx.delete(kept.WEBHOOKS.name, webhook_id)
            await tx.delete(kept.CURSORS.name, webhook_id)
        await kept.forget_deliveries(store, webhook_id, 0)
        return Response(status_code=204)

    @router.post("/{webhook_id}/rotate", summary="Give a webhook a new secret")
    async def rotate_secret(webhook_id: WebhookId, body: RotateSecret | None = None) -> WebhookSecret:
        """The answer shows it, once. For 24 hours events are signed with the old one, too."""
        secret, now = _secret(body.secret if body is not None else None), clock.now()
        async with store.transaction() as tx:
            webhook = await kept.known_webhook(tx, webhook_id)
            old = [key.model_copy(update={"until": key.until or now + OVERLAP}) for key in webhook.keys]
            keys = [kept.Key(secret=secret), *(key for key in old if key.until and key.until > now)][:5]
            webhook = await _save(tx, webhook.model_copy(update={"keys": keys}), now)
            cursor = await kept.find_cursor(tx, webhook_id)
        return _with_secret(webhook, cursor, secret)


def _add_deliveries(router: APIRouter, parts: Parts) -> None:
    store, clock = parts.store, parts.clock

    @router.get("/{webhook_id}/deliveries", summary="What a webhook was told, newest first")
    async def list_deliveries(webhook_id: WebhookId, query: Annotated[DeliveryQuery, Query()]) -> DeliveryPage:
        await kept.known_webhook(store, webhook_id)
        page = await kept.find_deliveries(
            store, webhook_id, query.status, query.limit or DEFAULT_LIMIT, query.cursor
        )
        found = [Delivery.model_validate(document) for document in page.items]
        return DeliveryPage(deliveries=found, next_cursor=page.next_cursor)

    @router.post("/{webhook_id}/replay", status_code=202, summary="Tell again what was said from a place on")
    async def replay_webhook(webhook_id: WebhookId, body: ReplayWebhook) -> WebhookView:
        """Events keep their `webhook-id`, so that a receiver knows what it has had."""
        start = _place(body.start)
        async with store.transaction() as tx:
            webhook = await _save(tx, await kept.known_webhook(tx, webhook_id), clock.now())
            cursor = await kept.find_cursor(tx, webhook_id)
            place = {"position": None, "start": start} if isinstance(start, datetime) else {"position": str(start)}
            cursor = cursor.model_copy(update=place)
            await kept.save_cursor(tx, cursor)
        return kept.view(webhook, cursor)

    @router.post("/{webhook_id}/test", summary="Post a test event now, once")
    async def test_webhook(webhook_id: WebhookId) -> Delivery:
        """The answer says how it went; a webhook that is switched off can be tried, too."""
        webhook = await kept.known_webhook(store, webhook_id)
        letter = test_letter(webhook, clock.new_id("test"), clock.now())
        result = await parts.sender.post(webhook, letter.delivery.event_id, letter.body)
        delivery = tried(letter.delivery, result, parts.settings, clock)
        if not result.taken:
            delivery = delivery.model_copy(update={"status": DeliveryStatus.FAILED, "next_try_at": None})
        async with store.transaction() as tx:
            if await kept.find_webhook(tx, webhook_id) is None:
                raise NotFound(f"the webhook {webhook_id!r} was removed")
            await kept.save_delivery(tx, delivery)
        return delivery


async def _shown(parts: Parts, webhook: kept.Webhook) -> WebhookView:
    return kept.view(webhook, await kept.find_cursor(parts.store, webhook.webhook_id))


async def _save(tx: Transaction, webhook: kept.Webhook, now: datetime) -> kept.Webhook:
    saved = webhook.model_copy(update={"version": webhook.version + 1, "updated_at": now})
    await kept.save_webhook(tx, saved)
    return saved


def _with_secret(webhook: kept.Webhook, cursor: kept.Cursor, secret: str) -> WebhookSecret:
    return WebhookSecret.model_validate(kept.view(webhook, cursor).model_dump() | {"secret": secret})


def _secret(given: SecretStr | None) -> str:
    return new_secret() if given is None else check_secret(given.get_secret_value())


def _fitting(cursor: kept.Cursor, topics: frozenset[str], *, afresh: bool) -> kept.Cursor:
    """Return a cursor without topics that are not wanted any more: wanted again, they begin with what comes."""
    changes: dict[str, object] = {"failing_since": None} if afresh else {}
    if cursor.position is not None:
        position = parse(cursor.position)
        changes["position"] = str(Position(position.cluster, position.of(topics)))
    return cursor.model_copy(update=changes)


def _place(text: str) -> Position | datetime:
    """Return where a replay begins.

    Raises:
        InvalidInput: The text is neither a moment nor a position.
    """
    if text == "beginning":
        return ALWAYS
    if ":" in text and "-" in text and text[0].isdigit() and "@" not in text:
        try:
            return _MOMENT.validate_python(text)
        except ValidationError:
            message = f"{text[:40]!r} is no moment like 2025-03-03T08:15:30Z"
            raise InvalidInput(f"start: {message}", [FieldError(path="start", message=message)]) from None
    return parse(text, "start")
