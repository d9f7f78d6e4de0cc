"""A courier for every active webhook, started and ended as webhooks change.

Only one gateway may run this at a time; were there two for a moment, events would be told twice, none lost.
"""

import asyncio
import logging

from services.gateway.webhooks import store as kept
from services.gateway.webhooks.courier import Courier, Parts
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.clock import Backoff

logger = logging.getLogger(__name__)

LOOK = 5.0
"""Seconds between looks at the webhooks: another gateway may have changed them."""
PAUSE = 0.1
"""Seconds between looks at least: every delivery is a commit, too."""
KEEP = 1000
"""Deliveries of a webhook that are kept."""


class Couriers:
    """All couriers of this process."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._running: dict[str, tuple[int, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Keep couriers running until cancelled."""
        backoff = Backoff(self._parts.clock)
        try:
            while True:
                committed = self._parts.store.next_commit()
                try:
                    await self._match(await kept.all_webhooks(self._parts.store))
                    backoff.reset()
                except StoreUnavailable as error:
                    logger.warning("webhooks wait for the store: %s", error)
                    await backoff.wait()
                    continue
                await self._parts.clock.sleep(PAUSE)
                try:
                    async with asyncio.timeout(LOOK):
                        await committed
                except TimeoutError:
                    continue
        finally:
            await self._end([task for _, task in self._running.values()])
            self._running.clear()
            await self._parts.sender.close()

    async def sweep(self) -> None:
        """Forget deliveries over the number that is kept."""
        for webhook in await kept.all_webhooks(self._parts.store):
            await kept.forget_deliveries(self._parts.store, webhook.webhook_id, KEEP)

    async def _match(self, webhooks: list[kept.Webhook]) -> None:
        wanted = {webhook.webhook_id: webhook for webhook in webhooks if webhook.active}
        stale = [
            id
            for id, (version, task) in self._running.items()
            if task.done() or id not in wanted or wanted[id].version != version
        ]
        await self._end([self._running.pop(id)[1] for id in stale])
        for id, webhook in wanted.items():
            if id not in self._running:
                self._running[id] = (webhook.version, asyncio.create_task(self._serve(webhook)))

    async def _serve(self, webhook: kept.Webhook) -> None:
        backoff = Backoff(self._parts.clock)
        while True:
            try:
                await Courier(webhook, self._parts).run()
                return
            except StoreUnavailable as error:
                logger.warning("webhook %s waits for the store: %s", webhook.webhook_id, error)
            except Exception:
                logger.exception("webhook %s: its courier broke; it is begun anew", webhook.webhook_id)
            await backoff.wait()

    async def _end(self, tasks: list[asyncio.Task[None]]) -> None:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
