"""A worker whose every word is spoken by a test."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from tests.harness import Bus
from trainwright.contracts.attempt import AttemptDocument, AttemptEnded, AttemptStarted, Outcome
from trainwright.contracts.failure import Failure
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerDraining, WorkerRegistered


class Hand:
    """A worker whose every word is spoken by the test."""

    def __init__(self, bus: Bus, cpus: float = 1) -> None:
        self._bus = bus
        self._version = 0
        self.worker_id = "worker-aaaaaaaaaaaa"
        self.incarnation = "one"
        self.cpus = cpus
        self.clock_is_off = timedelta()
        self.running: list[AttemptRef] = []
        self._beating: asyncio.Task[None] | None = None

    def document(self, **fields: Any) -> WorkerDocument:
        self._version += 1
        return WorkerDocument(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            version=self._version,
            hostname="test",
            cpus=self.cpus,
            memory=2**33,
            registered_at=datetime.now(UTC),
            **fields,
        )

    async def register(self, adopted: list[AttemptRef] | None = None) -> None:
        await self._bus.say(WorkerRegistered(worker=self.document(adopted=adopted or [])))
        self.speak()

    def speak(self) -> None:
        self._beating = self._beating or self._bus.background(self._beat_for_ever())

    def fall_silent(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            self._beating = None

    async def restarts(self, returns_within: float) -> None:
        await self._bus.say(WorkerDraining(worker=self.document(draining=True, returns_within=returns_within)))
        self.fall_silent()

    async def _beat_for_ever(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(0.5)

    async def beat(self, running: list[AttemptRef] | None = None) -> None:
        await self._bus.say(
            WorkerHeartbeat(
                worker_id=self.worker_id,
                incarnation=self.incarnation,
                time=datetime.now(UTC) + self.clock_is_off,
                running=running or self.running,
            )
        )

    async def started(self, task_id: str, attempt: int) -> None:
        await self._bus.say(AttemptStarted(attempt=self._attempt(task_id, attempt, 1)))

    async def ended(self, task_id: str, attempt: int, outcome: Outcome, failure: Failure | None = None) -> None:
        document = self._attempt(task_id, attempt, 2, outcome=outcome, failure=failure, ended_at=datetime.now(UTC))
        await self._bus.say(AttemptEnded(attempt=document))

    def _attempt(self, task_id: str, attempt: int, version: int, **fields: Any) -> AttemptDocument:
        return AttemptDocument(
            task_id=task_id,
            attempt=attempt,
            version=version,
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            started_at=datetime.now(UTC),
            **fields,
        )
