"""Leases: who has been silent for too long, while we ourselves could hear. In memory, by the monotonic clock.

"Unreachable is not failed": a worker is lost only after ``lease`` seconds of silence during which the scheduler
was healthy without a break. A late or missing probe through Kafka, a pause of our own, or a start gives every
lease its full time again. After a restart nothing is known, which is the same as everybody having just spoken.
"""

from dataclasses import dataclass, field

from services.scheduler.settings import SchedulerSettings
from trainwright.contracts.pulse import WorkerHeartbeat
from trainwright.runtime.clock import Clock


@dataclass(slots=True)
class Pulse:
    """The newest heartbeat of a worker, and when it was heard."""

    heard: float
    heartbeat: WorkerHeartbeat


@dataclass(slots=True)
class Leases:
    """Heartbeats heard and probes seen."""

    clock: Clock
    settings: SchedulerSettings
    pulses: dict[str, Pulse] = field(default_factory=dict)
    _arrived: dict[str, float] = field(default_factory=dict)
    _probes: dict[int, float] = field(default_factory=dict)
    _sent: int = 0
    _probe_seen: float = 0.0
    _ticked: float = 0.0
    _healthy_since: float = 0.0

    def __post_init__(self) -> None:
        self._probe_seen = self._ticked = self._healthy_since = self.clock.monotonic()

    def tick(self) -> None:
        """Note that the scheduler is awake; a gap since the last time gives all leases their full time again."""
        now = self.clock.monotonic()
        paused = now - self._ticked > self.settings.pause
        deaf = now - self._probe_seen > self.settings.probe_every + self.settings.probe_late
        if paused or deaf:
            self._healthy_since = now
        self._ticked = now

    def next_probe(self) -> int:
        """Return the number of a probe that is sent now."""
        self._sent += 1
        self._probes[self._sent] = self.clock.monotonic()
        return self._sent

    def probe_seen(self, seq: int) -> None:
        """Note that a probe came back; a late one means that heartbeats are late too."""
        sent, now = self._probes.pop(seq, None), self.clock.monotonic()
        self._probes = {number: at for number, at in self._probes.items() if number > seq}
        if sent is None:
            return
        self._probe_seen = now
        if now - sent > self.settings.probe_late:
            self._healthy_since = now

    def heard(self, heartbeat: WorkerHeartbeat) -> None:
        """Note a heartbeat."""
        self.pulses[heartbeat.worker_id] = Pulse(self.clock.monotonic(), heartbeat)

    def arrived(self, worker_id: str) -> None:
        """Note that a worker has started: a sign of life, and heartbeats of before mean nothing any more."""
        self.pulses.pop(worker_id, None)
        self._arrived[worker_id] = self.clock.monotonic()

    def silence(self, worker_id: str) -> float:
        """Return for how many seconds a worker has been silent while we could hear."""
        pulse = self.pulses.get(worker_id)
        heard = pulse.heard if pulse else self._arrived.get(worker_id, 0.0)
        since = max(self._healthy_since, heard)
        return self.clock.monotonic() - since

    def is_expired(self, worker_id: str) -> bool:
        """Return whether a worker counts as lost."""
        return self.silence(worker_id) > self.settings.lease
