"""Effects: what happens outside of a store after a commit, run from the outbox, one at a time, with retries."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import orjson

from trainwright import crash
from trainwright.contracts.base import Event
from trainwright.contracts.errors import StoreUnavailable
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import emit
from trainwright.runtime.telemetry.figures import count, observe
from trainwright.runtime.telemetry.names import EFFECT, EFFECT_SECONDS, EFFECTS
from trainwright.runtime.telemetry.tracing import TRACE, TRACING
from trainwright.storage.document import DocumentStore, OutboxRow, Transaction

logger = logging.getLogger(__name__)

TRIES = 5
IDLE = 5.0


class Outcome(Protocol):
    """What an effect leaves behind: a change of the store, and events, saved when the effect is marked done."""

    async def __call__(self, *, tx: Transaction, clock: Clock) -> Sequence[Event]: ...


class EffectHandler(Protocol):
    """Does the outside part of an effect; safe to repeat. Returns what to save, or None."""

    async def __call__(self, arguments: dict[str, Any]) -> Outcome | None: ...


class EffectRunner:
    """Runs one service's effects in order."""

    def __init__(
        self, service: str, store: DocumentStore, effects: Mapping[str, EffectHandler], clock: Clock
    ) -> None:
        self._service = service
        self._store = store
        self._effects = effects
        self._clock = clock

    async def run(self) -> None:
        """Run effects until cancelled."""
        backoff = Backoff(self._clock)
        while True:
            committed = self._store.next_commit()
            try:
                rows = await self._store.outbox_pending("effect", 1)
                if rows:
                    await self._run_one(rows[0])
                    backoff.reset()
            except StoreUnavailable as error:
                logger.warning("%s: effects wait: %s", self._service, error)
                await backoff.wait()
                continue
            if not rows:
                try:
                    async with asyncio.timeout(IDLE):  # wait_for loses a cancellation beside a commit
                        await committed
                except TimeoutError:
                    continue

    async def _run_one(self, row: OutboxRow) -> None:
        parent, began = dict(row.headers).get("traceparent"), self._clock.monotonic()
        about = {"trainwright.effect": row.topic}
        try:
            with TRACING.begin(EFFECT, self._service, f"effect {row.topic}", parent, lambda: about) as span:
                TRACE.set(span.traceparent)
                outcome = await self._effects[row.topic](orjson.loads(row.value))
                crash.point("effect.done")
                await self._finish(row, outcome, span.traceparent)
            self._count(row, "done", began)
        except StoreUnavailable:
            raise
        except Exception:
            logger.warning("%s: effect %s failed", self._service, row.id, exc_info=True)
            self._count(row, "failed" if row.tries + 1 < TRIES else "given_up", began)
            if row.tries + 1 >= TRIES:
                logger.error("%s: effect %s given up after %d tries", self._service, row.id, TRIES)
                await self._finish(row, None, parent)
                return
            await self._store.note_try(row.seq)
            await self._clock.sleep(0.2 * 2**row.tries)

    def _count(self, row: OutboxRow, outcome: str, began: float) -> None:
        count(EFFECTS, self._service, row.topic, outcome)
        observe(EFFECT_SECONDS, self._service, row.topic, value=self._clock.monotonic() - began)

    async def _finish(self, row: OutboxRow, outcome: Outcome | None, traceparent: str | None) -> None:
        async with self._store.transaction() as tx:
            if outcome is not None:
                events = await outcome(tx=tx, clock=self._clock)
                cause = Cause(derived_id(self._service, row.id), traceparent)
                await emit(tx, events, source=self._service, cause=cause, clock=self._clock)
            await tx.mark_sent([row.seq], self._clock.now())
        crash.point("effect.marked")
