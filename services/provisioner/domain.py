"""What there is, what waits, and how much there may be: the nouns of ``deciding.py``. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

IDLE = "idle: its machine is given back"
"""The reason with which the provisioner drains; a worker drained with another one is somebody else's matter."""
EPSILON = 1e-9


class Size(NamedTuple):
    """An amount of resources. ``gpu_memory`` is of each GPU; 0 is not known, and fits."""

    gpu: int = 0
    cpu: float = 0.0
    memory: int = 0
    gpu_memory: int = 0

    def holds(self, other: "Size") -> int:
        """Return how often another amount fits, at most a million times."""
        if self.gpu_memory and other.gpu_memory > self.gpu_memory:
            return 0
        times = [1_000_000.0]
        for have, want in ((self.gpu, other.gpu), (self.cpu, other.cpu), (self.memory, other.memory)):
            if want > 0:
                times.append((have + EPSILON) // want)
        return max(0, int(min(times)))

    def minus(self, other: "Size", times: int) -> "Size":
        """Return what is left."""
        left = (self.gpu - times * other.gpu, self.cpu - times * other.cpu, self.memory - times * other.memory)
        return Size(*left, self.gpu_memory)

    def __str__(self) -> str:
        words = [f"{self.gpu} GPU"] if self.gpu else []
        words += [f"{self.gpu_memory / 2**30:g} GiB of GPU memory"] if self.gpu_memory else []
        words += [f"{self.cpu:g} CPU"] if self.cpu else []
        words += [f"{self.memory / 2**30:.3g} GiB"] if self.memory else []
        return ", ".join(words) or "nothing"


@dataclass(frozen=True, slots=True)
class Kind:
    """A class of machines: what a worker on one offers, and how many there may be."""

    name: str
    size: Size
    least: int = 0
    most: int = 1


@dataclass(frozen=True, slots=True)
class Policy:
    """How much there may be, and how patient the provisioner is. Times are in seconds."""

    kinds: tuple[Kind, ...]
    most: int = 64
    cool_down: float = 300.0
    start_within: float = 300.0
    settle: float = 3.0
    retry_first: float = 10.0
    retry_most: float = 600.0
    steady: float = 60.0


@dataclass(frozen=True, slots=True)
class Wish:
    """Waiting tasks of one shape."""

    size: Size
    count: int = 1
    waited: float = 0.0
    reason: str = ""
    by_quota: bool = False
    """Whether the quota is too small, a share of all cores: what is free is no help, one machine more is."""


class MachineState(StrEnum):
    """How a machine stands, whatever its worker says."""

    STARTING = "starting"
    RUNNING = "running"
    ENDING = "ending"
    OVER = "over"
    LOST = "lost"
    """It was to be gone long ago and nobody says that it is: it counts no more, and its name stays taken."""


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine of ours: a process here, a pod there."""

    name: str
    kind: str
    state: MachineState
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as the scheduler sees it."""

    worker_id: str
    machine: str
    state: str
    total: Size
    free: Size
    busy: bool = False
    reason: str = ""

    @property
    def works(self) -> bool:
        """Return whether it takes attempts."""
        return self.state == "alive"

    @property
    def is_drained(self) -> bool:
        """Return whether the provisioner has drained it."""
        return self.state == "draining" and self.reason == IDLE


@dataclass(frozen=True, slots=True)
class World:
    """All that is decided from, as of one moment."""

    wishes: tuple[Wish, ...] = ()
    workers: tuple[Worker, ...] = ()
    machines: tuple[Machine, ...] = ()


@dataclass(frozen=True, slots=True)
class Memory:
    """What is known from before. Without it nothing goes wrong: cool-downs and back-offs begin anew."""

    came: Mapping[str, float] = field(default_factory=dict)
    """Since when each worker has been seen, by its id."""
    idle: Mapping[str, float] = field(default_factory=dict)
    """Since when each has had nothing to do."""
    alone: Mapping[str, float] = field(default_factory=dict)
    """Since when a machine has had no worker."""
    lived: Mapping[str, float] = field(default_factory=dict)
    """For how long a machine has had one."""
    counted: frozenset[str] = frozenset()
    """Machines whose failure has been counted."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Starts in a row that failed, by kind."""
    not_before: Mapping[str, float] = field(default_factory=dict)
    """When a kind is tried again."""
    sizes: Mapping[str, Size] = field(default_factory=dict)
    """What workers of a kind really offer."""


@dataclass(frozen=True, slots=True)
class Start:
    """Start a machine."""

    name: str
    kind: str


@dataclass(frozen=True, slots=True)
class Undrain:
    """Let a worker that was drained take attempts again."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Drain:
    """Let an idle worker take nothing new, so that it can be ended."""

    worker_id: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End a machine that has nothing to do, or never will."""

    name: str
    why: str


Action = Start | Undrain | Drain | Stop


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do now, what to remember, and what people should know."""

    actions: tuple[Action, ...]
    memory: Memory
    notes: tuple[str, ...] = ()
