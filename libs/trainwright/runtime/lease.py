"""Who of a service's processes does what only one may do: relay, loops, effects, tasks; of some, everything.

The lease lies in the service's store. Its holder renews it; a challenger takes it over when it has not seen it
change for its whole length, by the challenger's own monotonic clock: clocks of machines are never compared. What
the leader's jobs write carries the epoch (``storage/fence.py``), so one that slept through a take-over changes
nothing: it finds out, ends its jobs and challenges again.

A service of which there is one process (``TRAINWRIGHT_STATIC_MEMBERS``) takes its lease when it starts and renews
nothing: the newest process leads, an older one that was left running by mistake finds itself fenced and stands by.
"""

import asyncio
import contextvars
import logging
import os
import socket
from collections.abc import Sequence

from trainwright.contracts.errors import LeaseLost, StoreUnavailable
from trainwright.runtime.clock import Backoff, Clock
from trainwright.runtime.jobs import Job, together
from trainwright.storage.document import DocumentStore
from trainwright.storage.fence import FENCE, Fence

logger = logging.getLogger(__name__)

RELEASE_TIMEOUT = 1.0


class Lease:
    """One process's side of a service's lease."""

    def __init__(self, service: str, store: DocumentStore, clock: Clock, *, length: float, alone: bool) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._length = length
        self._alone = alone
        self._holder = f"{socket.gethostname()}/{os.getpid()}/{clock.new_id(service)}"
        self.leads = False

    @property
    def stands_by(self) -> bool:
        """Return whether another process may lead: without replicas it is this one, as soon as it can."""
        return not self.leads and not self._alone

    async def run(self, jobs: Sequence[Job]) -> None:
        """Do these jobs whenever the lease is ours, until cancelled; what one of them raises is raised here."""
        fresh = True
        while True:
            fence = Fence(await self._take(at_once=self._alone and fresh))
            fresh = False
            if not self._alone:
                logger.info("%s: this process leads (epoch %d)", self._service, fence.epoch)
            self.leads = True
            try:
                await self._lead(fence, jobs)
            except LeaseLost:
                pass  # a job found out first
            finally:
                self.leads = False
            logger.warning("%s: another process leads; this one stands by", self._service)

    async def _take(self, *, at_once: bool) -> int:
        """Wait until the lease is free, or its holder was silent for its whole length; return the new epoch."""
        seen, since = None, self._clock.monotonic()
        backoff = Backoff(self._clock, first=0.2, most=1.0)
        while True:
            try:
                found = await self._store.lease()
                if found != seen:
                    seen, since = found, self._clock.monotonic()
                silent = not self._alone and self._clock.monotonic() - since >= self._length
                if (at_once or silent or found.holder is None) and await self._store.take_lease(
                    found, self._holder
                ):
                    return found.epoch + 1
            except StoreUnavailable as error:
                logger.warning("%s: the lease waits for the store: %s", self._service, error)
                seen = None
                await backoff.wait()
            if not at_once:
                await self._clock.sleep(self._length / 16)

    async def _lead(self, fence: Fence, jobs: Sequence[Job]) -> None:
        context = contextvars.copy_context()
        context.run(FENCE.set, fence)
        ours: list[Job] = [*jobs, fence.wait] if self._alone else [*jobs, fence.wait, lambda: self._renew(fence)]
        # First let go of the lease: the next leader need not wait for our clients to stop.
        await together(ours, context=context, ending=lambda: self._release(fence))

    async def _renew(self, fence: Fence) -> None:
        while True:
            await self._clock.sleep(self._length / 4)
            try:
                if not await self._store.renew_lease(fence.epoch):
                    fence.fail()
            except StoreUnavailable as error:
                logger.warning("%s: the lease cannot be renewed: %s", self._service, error)

    async def _release(self, fence: Fence) -> None:
        self.leads = False
        try:
            await asyncio.wait_for(self._store.release_lease(fence.epoch), RELEASE_TIMEOUT)
        except (StoreUnavailable, TimeoutError) as error:
            logger.info("%s: the lease could not be released: %r", self._service, error)
