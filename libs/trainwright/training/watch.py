"""Whether a run that still lives is in trouble: hung, diverged, out of time, idle. Pure: time and use are given.

A healthy run that is ended costs more than a broken one that is found late, so every rule waits for evidence:
a pause must be long for this run, and longer still while it computes; a loss must stay broken. What is usual is
learned from the run's own records, so a watcher that adopts a run should read its spool from the beginning.
Not here: how a process is stopped (the agent), why a process that ended has failed (classify.py), what is done
about it (the task service).
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from trainwright.contracts.failure import FailureClass
from trainwright.contracts.task_config import Watch
from trainwright.training.spool import Record

USUAL_TIMES = 10
"""A pause is suspicious from so many times the step time that 99 of 100 steps keep (the k of k × p99)."""
LONGEST_TIMES = 3
"""… and from so many times the longest pause that ever ended by itself."""
BUSY_TIMES = 30
"""A run that computes gets so many times longer: an evaluation, a compilation, a slow epoch."""
EDGE_TIMES = 10
"""So does one of which little is known yet, or that has taken its last step: it evaluates and saves."""
BUSY_CORES = 0.05
FEW_STEPS = 5
LEAST_SECONDS = 0.5
IDLE_CORES = 0.02
"""Processes that use less are idle: a loop that waits wakes now and then, and threads of libraries do."""
IDLE_WINDOW = 10.0
"""Seconds over which that is measured: the kernel counts in ticks of 10 ms."""

NO_NUMBERS = 5
FIRST_INFINITIES = 20
WINDOW = 20
EXPLODES_AFTER = 50
EXPLODED_TIMES = 300.0
CREPT_TIMES = 1e9
EXPLODED_LEVEL = 100.0
CALM_TIMES = 3.0

OTHER_NAMES = ("train_loss", "train/loss", "training_loss")
"""What is watched for want of a metric called `loss`."""
_DEFAULT_NAME = "loss"


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a run should be ended: `bad_step` is the first step that was not well, where one can be named.

    What is only idle has no class: it has not failed.
    """

    failure_class: FailureClass | None
    message: str
    bad_step: int | None = None


class Health:
    """Watch one run: hand it what the run reports, ask whether it is in trouble.

    `now` is the watcher's monotonic clock in seconds; the run's time begins with the first call, or `elapsed`
    seconds before it when an earlier watcher has watched it.
    """

    def __init__(self, watch: Watch, timeout_seconds: float | None = None, elapsed: float = 0.0) -> None:
        self._watch = watch
        self._timeout = timeout_seconds
        self._elapsed = elapsed
        self._started: float | None = None
        self._pace = _Pace()
        self._loss = _Loss()
        self._loss_name: str | None = None
        self._cpu: float | None = None
        self._burned = 0.0
        self._idle = _Idle()

    def seen(self, records: Sequence[Record], now: float) -> None:
        """Take note of what the run has reported since the last call."""
        self._begin(now)
        if not records:
            return
        self._pace.add(records, now)
        self._cpu, self._burned = None, 0.0
        if self._watch.divergence and self._watch.loss is not None:
            for record in records:
                self._follow_loss(record, self._watch.loss)

    def slept(self, now: float) -> None:
        """Take note that the watcher itself was paused: the run gets its full time again."""
        self._begin(now)
        self._pace.alive_at = now
        self._cpu, self._burned = None, 0.0
        self._idle = _Idle()

    @property
    def doubtful_from(self) -> int | None:
        """Return the step since which the loss has been no finite number; None while it is one."""
        return self._loss.doubtful_from

    def trouble(self, now: float, cpu_seconds: float, gpus_work: bool | None = None) -> Trouble | None:
        """Return why the run should be ended, or None; `cpu_seconds` is what its processes have used in all,
        `gpus_work` whether its GPUs do anything: None of a run that has none.
        """
        started = self._begin(now)
        # A child that ends takes its share with it: only what is added counts.
        self._burned += max(0.0, cpu_seconds - self._cpu) if self._cpu is not None else 0.0
        self._cpu = cpu_seconds
        if self._loss.broken is not None:
            message, bad_step = self._loss.broken
            return Trouble(FailureClass.DIVERGED, f"{self._loss_name} {message}", bad_step)
        trained = now - started + self._elapsed
        if self._timeout is not None and trained >= self._timeout:
            message = f"it has trained for {_time(trained)}; the task's timeout is {_time(self._timeout)}"
            return Trouble(FailureClass.TIMED_OUT, message)
        return (self._hung(now) if self._watch.hang else None) or self._idles(now, cpu_seconds, gpus_work)

    def _idles(self, now: float, cpu_seconds: float, gpus_work: bool | None) -> Trouble | None:
        after = self._watch.idle_after
        if after is None:
            return None
        idle = self._idle.seconds(now, cpu_seconds, gpus_work, min(IDLE_WINDOW, after / 4))
        if idle < after:
            return None
        what = "processes have" if gpus_work is None else "GPUs have"
        return Trouble(None, f"its {what} done nothing for {_time(idle)}; `idle_after` is {_time(after)}")

    def _begin(self, now: float) -> float:
        if self._started is None:
            self._started = self._pace.alive_at = now
        return self._started

    def _follow_loss(self, record: Record, wanted: str) -> None:
        name: str | None = wanted
        if wanted not in record.values:
            others = OTHER_NAMES if wanted == _DEFAULT_NAME and self._loss_name != wanted else ()
            name = next((other for other in others if other in record.values), None)
        if name is None:
            return
        if name != self._loss_name:
            self._loss_name, self._loss = name, _Loss()
        self._loss.add(record.step, record.values[name])

    def _hung(self, now: float) -> Trouble | None:
        silence = now - self._pace.alive_at
        if self._pace.step is None or silence < max(self._watch.hang_after, LEAST_SECONDS):
            return None
        busy = self._burned > BUSY_CORES * silence
        limit = max(self._watch.hang_after, LEAST_SECONDS, self._pace.suspicious())
        limit *= (BUSY_TIMES if busy else 1) * (EDGE_TIMES if self._pace.at_an_edge() else 1)
        if silence < limit:
            return None
        meanwhile = "though its processes compute" if busy else "and its processes do not compute"
        message = f"no step for {_time(silence)} after step {self._pace.step}, {meanwhile}; {self._pace.usual()}"
        return Trouble(FailureClass.HUNG, message)


class _Idle:
    """How long a run has done nothing with what it was given."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._measured_at = 0.0
        self._cpu = 0.0

    def seconds(self, now: float, cpu_seconds: float, gpus_work: bool | None, window: float) -> float:
        """Return it; processes are measured over windows, and what is short of one has not worked yet."""
        if self._since is None:
            self._since, self._measured_at, self._cpu = now, now, cpu_seconds
        works = gpus_work
        if gpus_work is None and now - self._measured_at >= window:
            works = cpu_seconds - self._cpu > IDLE_CORES * (now - self._measured_at)
            self._measured_at, self._cpu = now, cpu_seconds
        if works:
            self._since = now
        return now - self._since


class _Pace:
    """How a run's steps follow each other, by the times that it wrote into its records."""

    def __init__(self) -> None:
        self.alive_at = 0.0
        self.step: int | None = None
        self._steps = 0
        self._stride = 1
        self._total: int | None = None
        self._last_time: float | None = None
        self._recent: deque[float] = deque(maxlen=512)
        self._longest = 0.0

    def add(self, records: Sequence[Record], now: float) -> None:
        """Take note of records, the oldest first; at least one."""
        if self.step is None:
            self._longest = now - self.alive_at  # imports and data: no step, but a pause that ended by itself
        for record in records:
            if self._last_time is not None:
                pause = max(0.0, record.time - self._last_time)
                self._longest = max(self._longest, pause)
                if record.step != self.step:
                    self._recent.append(pause)
            if record.step != self.step:
                self._steps += 1
                self._stride = max(1, record.step - self.step) if self.step is not None else 1
            self._last_time, self.step = record.time, record.step
            self._total = record.total_steps or self._total
        self.alive_at = now

    def suspicious(self) -> float:
        """Return how long a pause must be to be suspicious, in seconds."""
        return max(USUAL_TIMES * self._p99(), LONGEST_TIMES * self._longest)

    def at_an_edge(self) -> bool:
        """Return whether the run has hardly begun, or has taken what may be its last step."""
        last = self.step is not None and self._total is not None and self.step + self._stride >= self._total
        return self._steps < FEW_STEPS or last

    def usual(self) -> str:
        """Return in words what is usual."""
        return f"99 of 100 steps take at most {_time(self._p99())}, the longest pause was {_time(self._longest)}"

    def _p99(self) -> float:
        ordered = sorted(self._recent)
        return ordered[math.ceil(0.99 * len(ordered)) - 1] if ordered else 0.0


class _Loss:
    """One loss: whether it is no number any more, or has exploded.

    Explosion is judged by medians and for losses that are never negative only. It needs a level of 300 times
    the best and the first window's both, and above 100, because a loss near nothing may grow a thousandfold and
    be healthy; and it must have come quickly, because the losses of reinforcement learning grow with the
    rewards. What crept up must have grown a billionfold.
    """

    def __init__(self) -> None:
        self.broken: tuple[str, int] | None = None
        self._values: deque[tuple[int, float]] = deque(maxlen=2048)
        self._count = 0
        self._start = math.inf
        self._first = math.inf
        self._best = math.inf
        self._calm_count = 0
        self._signed = False
        self._streak = 0
        self._streak_step = 0
        self._only_infinite = True

    @property
    def doubtful_from(self) -> int | None:
        """Return the first step of the numbers, now last, that are none."""
        return self._streak_step if self._streak else None

    def add(self, step: int, value: float) -> None:
        """Take note of the loss at `step`."""
        if self.broken is not None:
            return
        if not math.isfinite(value):
            self._add_no_number(step, value)
            return
        self._streak, self._only_infinite = 0, True
        self._signed |= value < 0
        self._values.append((step, value))
        self._count += 1
        if self._count <= 5:
            self._start = median(value for _, value in self._values)
        if not self._signed and self._count >= WINDOW and self._count % 5 == 0:
            self._look_for_explosion()

    def _add_no_number(self, step: int, value: float) -> None:
        if self._streak == 0:
            self._streak_step = step
        self._streak += 1
        self._only_infinite &= math.isinf(value)
        # Half precision begins with too large a scale: its first losses may be infinite, then all is well.
        allowed = FIRST_INFINITIES if self._count == 0 and self._only_infinite else NO_NUMBERS
        if self._streak >= allowed:
            rising = not self._signed and self._count > 0 and self._values[-1][1] > EXPLODED_TIMES * self._base()
            bad_step = self._rise() if rising else self._streak_step
            self.broken = f"is no finite number ({value}) since step {self._streak_step}", bad_step

    def _look_for_explosion(self) -> None:
        level = median(value for _, value in list(self._values)[-WINDOW:])
        if self._count == WINDOW:
            self._first = level
        self._best = min(self._best, level)
        if level <= CALM_TIMES * self._best:
            self._calm_count = self._count
        usual = max(self._best, self._first)
        if self._count < EXPLODES_AFTER or level <= max(EXPLODED_LEVEL, EXPLODED_TIMES * usual):
            return
        quick = self._count - self._calm_count <= max(2 * WINDOW, self._count // 4)
        if quick or level > CREPT_TIMES * usual:
            bad_step = self._rise()
            self.broken = f"exploded from {self._best:.3g} to {level:.3g} since step {bad_step}", bad_step

    def _base(self) -> float:
        """Return the level that was good: the best one, or where the run began."""
        return min(self._best, self._start)

    def _rise(self) -> int:
        """Return the step at which the loss left its best level and did not come back."""
        calm = CALM_TIMES * self._base()
        values = list(self._values)
        for end in range(len(values), 4, -1):
            if median(value for _, value in values[end - 5 : end]) <= calm:
                last_calm = max(place for place in range(end - 5, end) if values[place][1] <= calm)
                return values[min(last_calm + 1, len(values) - 1)][0]
        return values[0][0]


def _time(seconds: float) -> str:
    """Return a duration as people say it: 0.25 s, 95 s, 12 min, 3.5 h."""
    if seconds < 120:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
