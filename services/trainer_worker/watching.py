"""Watch one run from outside: read what it reports, look at its processes, say when it should be ended.

The run's own files are read, not the log of events: Kafka may be away. Not here: what is trouble
(trainwright.training.watch), how a run is ended (`lead.py`).
"""

import os
from pathlib import Path

from services.trainer_worker import inventory
from services.trainer_worker.domain import Attempt, Stop, StopCause
from services.trainer_worker.place import Workplace
from trainwright.contracts.resource import ResourceUsage
from trainwright.contracts.task_config import Watch
from trainwright.training import layout
from trainwright.training.spool import SpoolReader
from trainwright.training.watch import Health, Trouble

LOOK_SECONDS = 0.5
SLEPT_SECONDS = 2.0
"""A watcher that did not look for so long was paused itself, or the machine was: every run gets its time again."""
CHUNKS = 4
"""Pieces of the spool read in one look: an adopted run's is read from its beginning, bit by bit."""
LEAST_FREE = 4 * 1024 * 1024
"""Bytes free where a run writes what it reports; with less, it may take steps that nobody can read of."""
LEAST_RATE = 1.0
"""Per cent of the time from which a GPU counts as at work."""
TIMEOUT_GRACE = 60.0
HUNG_TERM = 5.0


class Watcher:
    """Watches one run of which this agent knows the process."""

    def __init__(self, attempt: Attempt, directory: Path, place: Workplace) -> None:
        self.least_free = LEAST_FREE
        self._attempt = attempt
        self._place = place
        self._directory = directory
        self._reader = SpoolReader(directory / layout.SPOOL)
        self._health: Health | None = None
        self._looked_at = 0.0

    def look(self, root: int | None) -> Stop | None:
        """Return a request to end the run whose processes are below `root`, if there is a reason for one."""
        now = self._place.clock.monotonic()
        if root is None or now - self._looked_at < LOOK_SECONDS:
            return None
        tree = self._place.trees.look(root, now)
        if tree is None:
            return None
        if self._health is None:
            self._health = Health(self._wanted(), self._attempt.timeout_seconds, self._age(root))
        elif now - self._looked_at > SLEPT_SECONDS:
            self._health.slept(now)
        if not self._read_to_end(self._health, now):
            return None
        self._looked_at = now
        if tree.is_held:
            self._health.slept(now)
            return None
        if self._is_mute():
            self._health.slept(now)
        trouble = self._health.trouble(now, tree.cpu_seconds, self._gpus_work())
        return request(trouble) if trouble is not None else None

    def holds_back(self, step: int) -> bool:
        """Return whether a checkpoint of `step` is not to be relied on yet: the loss is no number since before.

        Kept for good, a few of them would take the places of those that are well.
        """
        if self._health is None or not self._read_to_end(self._health, self._place.clock.monotonic()):
            return True
        since = self._health.doubtful_from
        return since is not None and step >= since

    def close(self) -> None:
        """Close the spool."""
        self._reader.close()

    def _read_to_end(self, health: Health, now: float) -> bool:
        """Read on; return whether there is nothing more for now."""
        for _ in range(CHUNKS):
            records = self._reader.read()
            health.seen(records, now)
            if not records:
                return True
        return False

    def _wanted(self) -> Watch:
        """Return what the run is watched for; members of a gang wait for each other, and are never idle alone."""
        watch, default = self._attempt.config.watch, self._place.settings.idle_after
        idle_after = None if self._attempt.members else watch.idle_after or default
        return watch.model_copy(update={"idle_after": idle_after})

    def _gpus_work(self) -> bool | None:
        """Return whether one of the run's GPUs does anything, or may: one that cannot say is taken to."""
        rates = [self._place.gpus.get(index, ResourceUsage()).gpu for index in self._attempt.slots.gpus]
        return any(rate is None or rate >= LEAST_RATE for rate in rates) if rates else None

    def _is_mute(self) -> bool:
        """Return whether the disk may be too full for a sign of life: silence proves nothing then."""
        try:
            disk = os.statvfs(self._directory)
        except OSError:
            return False
        return disk.f_bavail * disk.f_frsize < self.least_free

    def _age(self, root: int) -> float:
        """Return for how long the run has trained already: the shorter of what its process and its start say,
        because somebody may have set the clock.
        """
        started = self._attempt.started_at or self._place.clock.now()
        by_clock = max(0.0, (self._place.clock.now() - started).total_seconds())
        by_process = inventory.age_seconds(root)
        return by_clock if by_process is None else min(by_clock, by_process)


def request(trouble: Trouble) -> Stop:
    """Return how a run in trouble is ended: one that hangs at once, with its stacks; one that is out of time, or
    idle, may save.
    """
    kind = StopCause.IDLE if trouble.failure_class is None else StopCause(trouble.failure_class.value)
    in_time = kind in (StopCause.TIMED_OUT, StopCause.IDLE)
    return Stop(
        kind=kind,
        grace_seconds=TIMEOUT_GRACE if in_time else 0,
        term_seconds=HUNG_TERM if kind is StopCause.HUNG else 10,
        reason=trouble.message,
        bad_step=trouble.bad_step,
    )
