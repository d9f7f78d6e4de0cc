"""Workers and what is free on them, so arranged that a place is found without looking at every worker.

Best fit by GPUs: workers lie in buckets by the number of their free ones, the fullest that still has room is
taken, so that whole workers stay free for those who need them. Of equally full ones that where runs are of about
the same priority, so that a large task finds whole workers whose runs may all be asked to go.

Not here: who may have what (``planning.py``).
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

EPSILON = 1e-9
"""CPU cores are fractions: sums of them are off by less than this."""


class Needs(NamedTuple):
    """What each member of a task needs on its worker; most tasks have one member."""

    gpu: int = 0
    cpu: float = 1.0
    memory: int = 0
    gpu_memory: int = 0
    members: int = 1


class Room(NamedTuple):
    """Room on a worker, free or taken."""

    gpus: tuple[int, ...] = ()
    cpu: float = 0.0
    memory: int = 0

    def minus(self, other: "Room") -> "Room":
        """Return what is left when another part is taken away."""
        taken = set(other.gpus)
        gpus = tuple(index for index in self.gpus if index not in taken) if taken else self.gpus
        return Room(gpus, self.cpu - other.cpu, self.memory - other.memory)

    def plus(self, other: "Room") -> "Room":
        """Return both together."""
        gpus = tuple(sorted({*self.gpus, *other.gpus})) if other.gpus else self.gpus
        return Room(gpus, self.cpu + other.cpu, self.memory + other.memory)


@dataclass(frozen=True, slots=True)
class Host:
    """A worker as placing sees it: all that it offers."""

    worker_id: str
    incarnation: str
    cpus: float
    memory: int
    gpus: Mapping[int, int] = field(default_factory=dict)
    """Bytes of each GPU by its index."""
    hostname: str = ""

    @property
    def all(self) -> Room:
        """Return everything that it offers."""
        return Room(tuple(sorted(self.gpus)), self.cpus, self.memory)

    def pick(self, needs: Needs, free: Room) -> Room | None:
        """Return the part of what is free that one member would take; None if it does not fit."""
        if needs.cpu > free.cpu + EPSILON or needs.memory > free.memory or needs.gpu > len(free.gpus):
            return None
        if not needs.gpu:
            return Room((), needs.cpu, needs.memory)
        gpus = free.gpus
        if needs.gpu_memory:
            gpus = tuple(index for index in gpus if self.gpus[index] >= needs.gpu_memory)
        return Room(gpus[: needs.gpu], needs.cpu, needs.memory) if len(gpus) >= needs.gpu else None

    def is_large_enough(self, needs: Needs) -> bool:
        """Return whether a member would fit if nothing else ran there."""
        return self.pick(needs, self.all) is not None


@dataclass(slots=True)
class Pool:
    """Workers that take attempts, and what is free on each."""

    hosts: dict[str, Host] = field(default_factory=dict)
    room: dict[str, Room] = field(default_factory=dict)
    buckets: dict[int, dict[str, None]] = field(default_factory=dict)
    """Workers by the number of their free GPUs, in a stable order."""
    large_enough: dict[Needs, tuple[str, ...]] = field(default_factory=dict)
    """Memory of ``fitting``; forgotten when a worker comes or goes."""
    ranks: dict[str, int] = field(default_factory=dict)
    """The highest priority of the runs on a worker, where there are any."""
    drained: dict[str, Host] = field(default_factory=dict)
    """Workers that are there and take nothing new, because somebody decided so."""
    _total: tuple[float, float, float] | None = None

    def set(self, host: Host, free: Room, rank: int | None = None) -> None:
        """Take a worker in, or note what is free on it now, and the highest priority of its runs."""
        name = host.worker_id
        self.ranks.pop(name, None)
        if rank is not None:
            self.ranks[name] = rank
        if name in self.room:
            self.buckets[len(self.room[name].gpus)].pop(name, None)
        if self.hosts.get(name) != host:
            self.hosts[name] = host
            self._forget()
        self.room[name] = free
        self.buckets.setdefault(len(free.gpus), {})[name] = None

    def drop(self, worker_id: str) -> None:
        """Let a worker go."""
        if self.hosts.pop(worker_id, None) is not None:
            self.buckets[len(self.room.pop(worker_id).gpus)].pop(worker_id, None)
            self.ranks.pop(worker_id, None)
            self._forget()

    def fitting(self, needs: Needs) -> tuple[str, ...]:
        """Return the workers that are large enough for a member."""
        found = self.large_enough.get(needs)
        if found is None:
            if len(self.large_enough) > 10_000:
                self.large_enough.clear()
            found = tuple(name for name, host in self.hosts.items() if host.is_large_enough(needs))
            self.large_enough[needs] = found
        return found

    def total(self) -> tuple[float, float, float]:
        """Return GPUs, CPU cores and bytes of memory of all workers."""
        if self._total is None:
            hosts = self.hosts.values()
            gpus, memory = sum(len(host.gpus) for host in hosts), sum(host.memory for host in hosts)
            self._total = gpus, sum(host.cpus for host in hosts), memory
        return self._total

    def _forget(self) -> None:
        self.large_enough.clear()
        self._total = None


class View:
    """A pool during one pass: what has been given away in it is not free any more; the pool itself stays."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self._room: dict[str, Room] = {}
        self._buckets = dict(pool.buckets)
        self._own: set[int] = set()
        self.most_gpus = self._most_gpus()

    def room(self, worker_id: str) -> Room:
        """Return what is free on a worker."""
        return self._room.get(worker_id) or self.pool.room[worker_id]

    def give(self, worker_id: str, part: Room) -> None:
        """Take a part of what is free away."""
        self._set(worker_id, self.room(worker_id).minus(part))

    def take_back(self, worker_id: str, part: Room) -> None:
        """Make a part free again."""
        self._set(worker_id, self.room(worker_id).plus(part))

    def cannot(self, needs: Needs) -> bool:
        """Return, at little cost, whether there are surely too few free GPUs."""
        if needs.gpu > self.most_gpus:
            return True
        members = needs.members
        return members > 1 and sum(len(n) for count, n in self._buckets.items() if count >= needs.gpu) < members

    def candidates(self, needs: Needs, priority: int = 0) -> Iterator[tuple[str, Room]]:
        """Yield workers where a member fits now with the part it would take, the tightest first.

        Of equals those first where the highest priority of the runs is nearest to its own.
        """
        if needs.gpu > self.most_gpus:
            return
        hosts, ranks = self.pool.hosts, self.pool.ranks
        for count in sorted(count for count, names in self._buckets.items() if count >= needs.gpu and names):
            for name in sorted(self._buckets[count], key=lambda one: abs(ranks.get(one, priority) - priority)):
                part = hosts[name].pick(needs, self.room(name))
                if part is not None:
                    yield name, part

    def _set(self, worker_id: str, free: Room) -> None:
        before, after = len(self.room(worker_id).gpus), len(free.gpus)
        self._room[worker_id] = free
        if before != after:
            self._owned(before).pop(worker_id, None)
            self._owned(after)[worker_id] = None
            self.most_gpus = self._most_gpus()

    def _owned(self, count: int) -> dict[str, None]:
        if count not in self._own:
            self._own.add(count)
            self._buckets[count] = dict(self._buckets.get(count, {}))
        return self._buckets[count]

    def _most_gpus(self) -> int:
        return max((count for count, names in self._buckets.items() if names), default=-1)


def free_room(host: Host, taken: Iterable[Room]) -> Room:
    """Return what is left of a worker."""
    free = host.all
    for part in taken:
        free = free.minus(part)
    return free


def lacking(needs: Needs, hosts: Sequence[Host]) -> list[str]:
    """Return what no worker has alone, with the most that there is; everything when it is the combination."""
    gpu_memory = max((memory for host in hosts for memory in host.gpus.values()), default=0)
    asked = [
        (float(needs.gpu), float(max(len(h.gpus) for h in hosts)), f"{needs.gpu} GPU", "{:g} GPU"),
        (needs.cpu, max(h.cpus for h in hosts), f"{needs.cpu:g} CPU", "{:g} CPU"),
        (needs.memory, max(h.memory for h in hosts), f"{gib(needs.memory)} memory", "memory"),
        (needs.gpu_memory, gpu_memory, f"{gib(needs.gpu_memory)} GPU memory", "GPU memory"),
    ]
    short = [
        f"{words} (the most is {unit.format(most) if '{' in unit else f'{gib(most)} {unit}'})"
        for need, most, words, unit in asked
        if need > most
    ]
    return short or [words for need, _, words, _ in asked if need]


def gib(amount: float) -> str:
    """Return bytes in GiB, for people."""
    return f"{amount / 2**30:,.1f} GiB"
