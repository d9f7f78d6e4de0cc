"""Tells one webhook of events: each until it is taken or given up, in order, from where it stands.

What it has done is in the store after each try, so that it goes on after any end. Every write is fenced by the
webhook's version: once that has changed, somebody else tells, and what this one was about to save is not saved.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta

from services.gateway.settings import GatewaySettings
from services.gateway.stream.events import Said, structured
from services.gateway.stream.feed import Feed
from services.gateway.stream.history import Gap
from services.gateway.stream.position import parse
from services.gateway.stream.sse import gap_document
from services.gateway.stream.subscription import Subscription
from services.gateway.webhooks import store as kept
from services.gateway.webhooks.sender import GONE, Result, Sender
from trainwright.contracts.base import iso
from trainwright.contracts.webhook import Delivery, DeliveryStatus
from trainwright.runtime.clock import Clock, derived_id
from trainwright.runtime.envelope import Envelope
from trainwright.storage.document import DocumentStore

logger = logging.getLogger(__name__)

IDLE = 15.0
"""Seconds after which a position that only passed over events is kept."""
MOST_WAIT = 3600.0
GAP_TYPE = "trainwright.webhook.Gap.v1"
TEST_TYPE = "trainwright.webhook.Test.v1"


class Superseded(Exception):
    """The webhook was changed, paused or removed: this courier has nothing more to say."""


@dataclass(frozen=True, slots=True)
class Letter:
    """What is posted: the body, and what of it the log of deliveries shows."""

    delivery: Delivery
    body: bytes


@dataclass(frozen=True, slots=True)
class Parts:
    """What couriers share."""

    store: DocumentStore
    feed: Feed
    sender: Sender
    settings: GatewaySettings
    clock: Clock


class Courier:
    """Serves one version of one webhook."""

    def __init__(self, webhook: kept.Webhook, parts: Parts) -> None:
        self._webhook = webhook
        self._parts = parts
        self._clock = parts.clock
        self._saved: str | None = None

    async def run(self) -> None:
        """Tell of events until the webhook is changed.

        Raises:
            StoreUnavailable: Nothing can be saved; what was told last may be told again.
        """
        cursor = await kept.find_cursor(self._parts.store, self._webhook.webhook_id)
        self._saved = cursor.position
        start = parse(cursor.position) if cursor.position is not None else cursor.start
        subscription = Subscription(self._parts.feed, self._webhook.filter, start, newcomers_from_end=True)
        with subscription.listening():
            try:
                while True:
                    batch = await subscription.next(IDLE if self._saved else 1.0)
                    for position, what in batch.entries:
                        await self._tell(_letter(self._webhook, position, what, self._clock.now()), position)
                    if not batch.entries and str(subscription.position) not in ("", self._saved):
                        await self._move(str(subscription.position))
            except Superseded:
                return

    async def _tell(self, letter: Letter, position: str) -> None:
        """Deliver one event, however many tries it takes, or give it up."""
        known = await kept.find_delivery(self._parts.store, letter.delivery.delivery_id)
        delivery = known if known is not None and known.status == DeliveryStatus.RETRYING else letter.delivery
        while True:
            if delivery.next_try_at is not None:
                left = (delivery.next_try_at - self._clock.now()).total_seconds()
                await self._clock.sleep(min(max(left, 0.0), MOST_WAIT))
            result = await self._parts.sender.post(self._webhook, delivery.event_id, letter.body)
            delivery = tried(delivery, result, self._parts.settings, self._clock)
            await self._record(delivery, result, position)
            if delivery.status != DeliveryStatus.RETRYING:
                return

    async def _record(self, delivery: Delivery, result: Result, position: str) -> None:
        async with self._parts.store.transaction() as tx:
            webhook = await kept.find_webhook(tx, self._webhook.webhook_id)
            if webhook is None or webhook.version != self._webhook.version:
                raise Superseded
            await kept.save_delivery(tx, delivery)
            cursor = await kept.find_cursor(tx, webhook.webhook_id)
            changes: dict[str, object]
            if result.taken:
                changes = {"last_delivered_at": delivery.last_try_at, "failing_since": None}
            else:
                changes = {"failing_since": cursor.failing_since or delivery.last_try_at}
            if delivery.status != DeliveryStatus.RETRYING:
                changes |= {"position": position}
                self._saved = position
            cursor = cursor.model_copy(update=changes)
            await kept.save_cursor(tx, cursor)
            reason = disabling(result, cursor, self._parts.settings, delivery.last_try_at)
            if reason is not None:
                off = {"active": False, "disabled_reason": reason, "version": webhook.version + 1}
                await kept.save_webhook(tx, webhook.model_copy(update=off))
        if reason is not None:
            logger.warning("webhook %s is switched off: %s", webhook.webhook_id, reason)
            raise Superseded

    async def _move(self, position: str) -> None:
        async with self._parts.store.transaction() as tx:
            webhook = await kept.find_webhook(tx, self._webhook.webhook_id)
            if webhook is None or webhook.version != self._webhook.version:
                raise Superseded
            cursor = await kept.find_cursor(tx, webhook.webhook_id)
            await kept.save_cursor(tx, cursor.model_copy(update={"position": position}))
        self._saved = position


def tried(delivery: Delivery, result: Result, settings: GatewaySettings, clock: Clock) -> Delivery:
    """Return a delivery after one more try."""
    now, tries = clock.now(), delivery.tries + 1
    changes = {"tries": tries, "code": result.code, "error": result.error, "last_try_at": now, "next_try_at": None}
    since = delivery.first_try_at if delivery.tries else now
    if result.taken:
        changes |= {"status": DeliveryStatus.DELIVERED}
    elif (now - since).total_seconds() >= settings.webhooks_give_up_seconds:
        changes |= {"status": DeliveryStatus.FAILED}
    else:
        wait = min(settings.webhooks_retry_seconds * 2 ** min(tries - 1, 30), MOST_WAIT)
        wait = max(wait * (0.75 + clock.random() / 2), result.wait)
        changes |= {"status": DeliveryStatus.RETRYING, "next_try_at": now + timedelta(seconds=wait)}
    return delivery.model_copy(update=changes)


def disabling(result: Result, cursor: kept.Cursor, settings: GatewaySettings, now: datetime) -> str | None:
    """Return why a webhook is to be switched off, if it is."""
    if result.code == GONE:
        return "the receiver answered 410 Gone"
    if cursor.failing_since is None:
        return None
    failing = (now - cursor.failing_since).total_seconds()
    if failing < settings.webhooks_disable_seconds:
        return None
    return f"nothing was taken since {iso(cursor.failing_since)}; the last try: {result.error}"


def _letter(webhook: kept.Webhook, position: str, what: Said | Gap, now: datetime) -> Letter:
    place = parse(position)
    if isinstance(what, Said) and what.envelope is not None:
        place.set(what.partition, what.offset)
        envelope, body, kind = what.envelope, what.document or b"{}", "event"
    else:
        document = gap_document(what) if isinstance(what, Gap) else {}
        envelope = made(derived_id(webhook.webhook_id, webhook.version, position, "gap"), GAP_TYPE, webhook, now)
        body, kind = structured(envelope, document), "gap"
    delivery = Delivery(
        delivery_id=derived_id(webhook.webhook_id, webhook.created_at, str(place), envelope.id),
        webhook_id=webhook.webhook_id,
        kind=kind,
        event_id=envelope.id,
        event_type=envelope.type,
        subject=envelope.subject or None,
        position=str(place),
        status=DeliveryStatus.RETRYING,
        first_try_at=now,
        last_try_at=now,
    )
    return Letter(delivery, body)


def made(id: str, type: str, webhook: kept.Webhook, now: datetime) -> Envelope:
    """Return the envelope of what the gateway itself tells a webhook."""
    return Envelope(id, type, "/services/gateway", webhook.webhook_id, iso(now), None, None, None)


def test_letter(webhook: kept.Webhook, id: str, now: datetime) -> Letter:
    """Return what a try on request posts."""
    envelope = made(id, TEST_TYPE, webhook, now)
    delivery = Delivery(
        delivery_id=id,
        webhook_id=webhook.webhook_id,
        kind="test",
        event_id=id,
        event_type=TEST_TYPE,
        subject=webhook.webhook_id,
        status=DeliveryStatus.FAILED,
        first_try_at=now,
        last_try_at=now,
    )
    return Letter(delivery, structured(envelope, {"webhook_id": webhook.webhook_id}))
