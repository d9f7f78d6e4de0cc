"""Leases: who has been silent for too long, while we ourselves could hear. In memory, by the monotonic clock.

"Unreachable is not failed": a worker is lost only after ``lease`` seconds of silence during which the scheduler
was healthy without a break. Healthy means: no pause of our own, and the newest probe came back in time on every
partition that heartbeats travel on. A probe goes the same way as they do, so its round trip is the lag of our
consumer: clocks of other machines are never compared. Any break gives every lease its full time again, counted
from the first probe that came back in time after it. A start is such a break.
Not here: what follows from a loss (``passes.py``).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from aiokafka.partitioner import DefaultPartitioner

from services.scheduler.settings import SchedulerSettings
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.contracts.worker import AttemptRef, WorkerDocument
from trainwright.runtime.clock import Clock

Ref = tuple[str, int]
"""A task and the number of its attempt."""


@dataclass(slots=True)
class Pulse:
    """The newest heartbeat of a worker's known incarnation, and when it was heard."""

    heard: float
    heartbeat: WorkerHeartbeat
    running: frozenset[Ref]
    ended: frozenset[Ref]


@dataclass(slots=True)
class Leases:
    """Heartbeats heard and probes seen. ``voices`` are the names that probes are sent under, one a partition."""

    clock: Clock
    settings: SchedulerSettings
    voices: Sequence[str]
    pulses: dict[str, Pulse] = field(default_factory=dict)
    healthy_since: float | None = None
    """Since when we could hear without a break; None while we cannot."""
    _signs: dict[str, float] = field(default_factory=dict)
    """When each worker gave its last sign of life, in this life of ours; what waited on the log is none."""
    _strangers: dict[str, tuple[str, float]] = field(default_factory=dict)
    _sent: int = 0
    _sent_at: float = 0.0
    _out: dict[tuple[str, int], float] = field(default_factory=dict)
    _back: set[str] = field(default_factory=set)
    _ticked: float = 0.0

    def __post_init__(self) -> None:
        self._sent_at = self._ticked = self.clock.monotonic()

    async def while_leading(self) -> None:
        """Know of no worker's sign before this scheduler leads, nor after: another one has heard them."""
        self._forget()
        try:
            await asyncio.Event().wait()
        finally:
            self._forget()

    def _forget(self) -> None:
        self._break()
        self.pulses.clear()
        self._signs.clear()
        self._strangers.clear()

    def tick(self) -> None:
        """Note that the scheduler is awake; a gap since the last time, or a probe that is overdue, is a break."""
        now, settings = self.clock.monotonic(), self.settings
        paused = now - self._ticked > settings.pause
        mute = now - self._sent_at > settings.probe_every + settings.probe_late
        overdue = any(now - sent > settings.probe_late for sent in self._out.values())
        if paused or mute or overdue:
            self._break()
        self._ticked = now

    def next_probe(self) -> int:
        """Return the number of the probes that are sent now, one by each voice."""
        self._sent, self._sent_at = self._sent + 1, self.clock.monotonic()
        self._out |= {(voice, self._sent): self._sent_at for voice in self.voices}
        return self._sent

    def probe_seen(self, voice: str, seq: int) -> None:
        """Note that a probe came back. One that was sent before a break does not count."""
        self.tick()
        if (voice, seq) not in self._out:
            return
        self._out = {probe: at for probe, at in self._out.items() if probe[0] != voice or probe[1] > seq}
        self._back.add(voice)
        if self.healthy_since is None and self._back.issuperset(self.voices):
            self.healthy_since = self.clock.monotonic()

    def heard(self, heartbeat: WorkerHeartbeat) -> None:
        """Note a heartbeat of the worker's known incarnation."""
        now = self.clock.monotonic()
        self.pulses[heartbeat.worker_id] = Pulse(now, heartbeat, _refs(heartbeat.running), _refs(heartbeat.ended))
        if self.healthy_since is not None:
            self._signs[heartbeat.worker_id] = now

    def hears(self, worker: WorkerDocument) -> bool:
        """Return whether a worker has been heard in this life of ours: only such a one is given work.

        What the log says of others may be old: of a platform that was down, or one of which we begin anew.
        """
        return worker.worker_id in self.pulses

    def heard_stranger(self, heartbeat: WorkerHeartbeat) -> None:
        """Note a heartbeat of an incarnation whose registration has not been read: it is on its way for a while.

        The worker lives, and what it goes on with only its registration says.
        """
        now, worker_id = self.clock.monotonic(), heartbeat.worker_id
        name, first = self._strangers.get(worker_id, ("", now))
        if name != heartbeat.incarnation:
            self._strangers[worker_id], first = (heartbeat.incarnation, now), now
        if self.healthy_since is not None and now - first <= self.settings.returning:
            self._signs[worker_id] = now

    def arrived(self, worker_id: str) -> None:
        """Note that a worker started, or that it says it returns: heartbeats of before are void."""
        self.pulses.pop(worker_id, None)
        self._signs[worker_id] = self.clock.monotonic()

    def silence(self, worker_id: str) -> float:
        """Return for how many seconds a worker has been silent while we could hear."""
        if self.healthy_since is None:
            return 0.0
        return self.clock.monotonic() - max(self.healthy_since, self._signs.get(worker_id, 0.0))

    def is_expired(self, worker: WorkerDocument) -> bool:
        """Return whether a worker counts as lost."""
        self.tick()  # a pause may have come since the sweep began
        return self.silence(worker.worker_id) > self._patience(worker)

    def _patience(self, worker: WorkerDocument) -> float:
        if worker.returns_within is not None:
            return max(worker.returns_within, self.settings.lease)
        if worker.worker_id not in self._signs:
            return self.settings.returning  # perhaps all of the platform was down, and it comes up more slowly
        return self.settings.lease

    def _break(self) -> None:
        self.healthy_since = None
        self._out.clear()
        self._back.clear()


def _refs(attempts: Sequence[AttemptRef]) -> frozenset[Ref]:
    return frozenset((one.task_id, one.attempt) for one in attempts)


def voices(partitions: int, clock: Clock) -> list[str]:
    """Return names for the probes of one life of the scheduler: one that falls on each partition."""
    numbers, found = list(range(partitions)), dict[int, str]()
    while len(found) < partitions:
        name = clock.new_id("scheduler")
        found.setdefault(DefaultPartitioner()(name.encode(), numbers, numbers), name)
    return list(found.values())
