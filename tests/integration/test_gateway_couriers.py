"""Couriers in this process: their store is away or locked, or one of them stands where it cannot go on from."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from services.gateway.settings import GatewaySettings
from services.gateway.store import KEYS
from services.gateway.stream.feed import Feed
from services.gateway.webhooks import store as kept
from services.gateway.webhooks.courier import Courier, Parts
from services.gateway.webhooks.couriers import Couriers
from services.gateway.webhooks.guard import networks
from services.gateway.webhooks.sender import Sender
from services.gateway.webhooks.signing import new_secret
from tests.events_desk import let_go
from tests.harness import Bus, eventually, listening
from tests.integration.runtime_parts import running
from tests.runtime_kit import task_event
from tests.webhook_receiver import Receiver, receiving
from trainwright.contracts.webhook import Delivery, DeliveryStatus
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore


class Desk:
    """A gateway's couriers and the store that they share with its routes."""

    def __init__(self, kafka: Kafka, path: Path) -> None:
        self.clock, self.path = SystemClock(), path
        self.store = SqliteStore(path, (KEYS, *kept.COLLECTIONS))
        self.feed = Feed(kafka, self.clock)
        sender = Sender(networks("127.0.0.0/8"), 5, self.clock)
        self.parts = Parts(self.store, self.feed, sender, GatewaySettings(), self.clock)
        self.couriers = Couriers(self.parts)

    async def register(self, receiver: Receiver, webhook_id: str, subject: str, **cursor: Any) -> kept.Webhook:
        """Keep a webhook for one task's events, and where it stands."""
        now, key = self.clock.now(), kept.Key(secret=new_secret())
        webhook = kept.Webhook(
            webhook_id=webhook_id, url=receiver.url, topics=["task"], subject=subject, keys=[key], created_at=now,
            updated_at=now,
        )  # fmt: skip
        receiver.secret = key.secret
        await self.save(webhook, **{"start": now, **cursor})
        return webhook

    async def save(self, webhook: kept.Webhook, **cursor: Any) -> None:
        async with self.store.transaction() as tx:
            await kept.save_webhook(tx, webhook)
            await kept.save_cursor(tx, kept.Cursor(webhook_id=webhook.webhook_id, **cursor))

    async def deliveries(self, webhook: kept.Webhook) -> list[Delivery]:
        page = await kept.find_deliveries(self.store, webhook.webhook_id, None, 100, None)
        return [Delivery.model_validate(document) for document in page.items]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with running(self.couriers.run()):
            yield
        await let_go(self.feed)


@pytest.fixture
async def desk(kafka: str, tmp_path: Path) -> AsyncIterator[Desk]:
    client = Kafka(RuntimeSettings(kafka=kafka))
    await client.ensure_topics()
    made = Desk(client, tmp_path / "gateway.db")
    await made.store.open()
    yield made
    await made.parts.sender.close()  # a courier that a test runs by itself leaves the connection open
    await made.store.close()


@pytest.fixture
async def bus(desk: Desk, kafka: str) -> AsyncIterator[Bus]:
    async with listening(kafka) as bus:
        yield bus


async def test_a_store_that_is_not_there_yet_is_waited_for(desk: Desk, bus: Bus, caplog: Any) -> None:
    async with receiving() as receiver:
        event = task_event(0xC0, 1)
        await desk.register(receiver, "webhook-a", event.subject)
        await desk.store.close()
        async with desk.running():
            await eventually(lambda: "webhooks wait for the store" in caplog.text, within=20, what="a first look")
            await desk.store.open()
            await bus.say(event)
            await eventually(lambda: receiver.taken, within=30, what="the event")
    assert receiver.versions() == [(event.subject, 1)]


async def test_what_cannot_be_noted_is_told_again_and_noted_once(desk: Desk, bus: Bus, caplog: Any) -> None:
    """Another process holds the store's file: the receiver has the event, and nobody knows it."""
    async with receiving() as receiver, desk.running():
        first, second = task_event(0xC1, 1), task_event(0xC1, 2)
        webhook = await desk.register(receiver, "webhook-b", first.subject)
        other = sqlite3.connect(desk.path, isolation_level=None)
        await bus.say(first)
        await eventually(lambda: receiver.taken, within=30, what="the reader's start")
        await eventually(lambda: desk.deliveries(webhook), within=30, what="a note")
        other.execute("BEGIN IMMEDIATE")
        await bus.say(second)
        await eventually(lambda: len(receiver.taken) >= 3, within=30, what="a second telling")
        assert len(await desk.deliveries(webhook)) == 1
        assert "webhook webhook-b waits for the store: " in caplog.text
        other.execute("ROLLBACK")
        other.close()

        async def noted() -> bool:
            return len(await desk.deliveries(webhook)) == 2

        await eventually(noted, within=30, what="the second note")
        newest = (await desk.deliveries(webhook))[0]
        assert (newest.status, newest.tries) == (DeliveryStatus.DELIVERED, 1)
    assert receiver.versions() == [(first.subject, 1), (second.subject, 2)]
    ids = [headers["webhook-id"] for headers, _ in receiver.requests]
    assert len(set(ids)) == 2, "a repeat has the same id"


async def test_one_that_stands_nowhere_harms_no_other_and_goes_on_when_it_is_told_where(
    desk: Desk, bus: Bus, caplog: Any
) -> None:
    """Its position names a topic that this version does not know."""
    async with receiving() as receiver, receiving() as other, desk.running():
        event = task_event(0xC2, 1)
        before = desk.clock.now()
        lost = await desk.register(receiver, "webhook-lost", event.subject, position="abc@nothing:7")
        await desk.register(other, "webhook-well", event.subject)
        await bus.say(event)
        await eventually(lambda: other.taken, within=30, what="the other's event")
        await eventually(lambda: "webhook-lost: its courier broke" in caplog.text, within=20, what="its complaint")
        assert receiver.taken == []
        await desk.save(lost.model_copy(update={"version": 2}), start=before)  # as a replay does
        await eventually(lambda: receiver.taken, within=30, what="the event")
    assert receiver.versions() == other.versions() == [(event.subject, 1)]


async def test_one_whose_webhook_was_changed_elsewhere_notes_nothing_and_ends(desk: Desk, bus: Bus) -> None:
    """Another gateway did, a moment ago: what this one has just told, the next courier tells again."""
    async with receiving() as receiver:
        event = task_event(0xC3, 1)
        webhook = await desk.register(receiver, "webhook-old", event.subject)
        await desk.save(webhook.model_copy(update={"version": 2}), start=webhook.created_at)
        courier = asyncio.create_task(Courier(webhook, desk.parts).run())
        await bus.say(event)
        await eventually(courier.done, within=30, what="its end")
        await let_go(desk.feed)
    courier.result()
    assert receiver.versions() == [(event.subject, 1)]
    assert await desk.deliveries(webhook) == []
