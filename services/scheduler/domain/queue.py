"""The queue: waiting tasks, grouped by what decides whether they fit.

If the first of a group finds no place, no other of it would: a pass looks at each group once, however long the
queue is. That is why a pass over 100,000 tasks costs what one over 10,000 does.
"""

import math
from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from services.scheduler.domain.pool import Needs, Pool, gib, lacking
from trainwright.contracts.queue import WaitClass

NO_TENANT = ""
"""The tenant of tasks without a strategy."""


class Reason(NamedTuple):
    """Why a task waits, as a class and in words."""

    wait: WaitClass
    words: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that wants a place. Moments are seconds of the epoch."""

    task_id: str
    needs: Needs
    priority: int = 0
    age: float = 0.0
    """When it was submitted."""
    strategy: str = NO_TENANT
    not_before: float | None = None
    avoid: tuple[str, ...] = ()
    """Workers that it failed on for their own fault."""
    lost_on: str | None = None
    """The worker that it was lost on last."""
    limit: float | None = None
    """Seconds that it may run at most; None without a limit."""
    queued_at: float = 0.0
    spares: frozenset[str] = frozenset()
    """Tasks that it gave its place up for: it never takes theirs."""
    claims: bool = False
    """Whether places are being cleared for it."""
    preemptible: bool = True
    """Whether it may be asked to give its place up."""
    told: str = ""
    """The reason for waiting that was last told."""


class Shape(NamedTuple):
    """What the tasks of a group have in common."""

    strategy: str
    needs: Needs
    limit: int | None
    avoid: tuple[str, ...]
    lost_on: str | None
    claims: bool
    preemptible: bool


Rank = tuple[int, float, str]
"""Priority (negative), age, name: the order inside of a group."""


def shape_of(waiting: Waiting) -> Shape:
    """Return the group of a task; limits within a factor of two are alike."""
    limit = None if waiting.limit is None else math.frexp(waiting.limit)[1]
    return Shape(
        waiting.strategy, waiting.needs, limit, waiting.avoid, waiting.lost_on, waiting.claims, waiting.preemptible
    )


def rank_of(waiting: Waiting) -> Rank:
    """Return where a task stands in its group."""
    return -waiting.priority, waiting.age, waiting.task_id


@dataclass(slots=True)
class Group:
    """Tasks of one shape in their order, and those that have not been told yet why they wait."""

    members: list[Rank] = field(default_factory=list)
    reason: Reason | None = None
    untold: dict[str, None] = field(default_factory=dict)


@dataclass(slots=True)
class Queue:
    """All tasks that want a place."""

    waiting: dict[str, Waiting] = field(default_factory=dict)
    groups: dict[Shape, Group] = field(default_factory=dict)
    later: dict[str, float] = field(default_factory=dict)
    """Tasks that wait for their next try, and until when; they are in no group."""
    ages: OrderedDict[str, float] = field(default_factory=OrderedDict)
    """Since when each has been queued, the longest first."""

    def put(self, waiting: Waiting, now: float) -> None:
        """Take a task in, or what is new of it."""
        since = self.ages.get(waiting.task_id)
        self._leave(waiting.task_id)
        self.waiting[waiting.task_id] = waiting
        if since != waiting.queued_at:
            self.ages.pop(waiting.task_id, None)
            self.ages[waiting.task_id] = waiting.queued_at
        if waiting.not_before is not None and waiting.not_before > now:
            self.later[waiting.task_id] = waiting.not_before
            return
        group = self.groups.setdefault(shape_of(waiting), Group())
        insort(group.members, rank_of(waiting))
        if group.reason is None or group.reason.words != waiting.told:
            group.untold[waiting.task_id] = None

    def drop(self, task_id: str) -> None:
        """Let a task go, if it is there."""
        self._leave(task_id)
        self.ages.pop(task_id, None)

    def _leave(self, task_id: str) -> None:
        waiting = self.waiting.pop(task_id, None)
        if waiting is None or self.later.pop(task_id, None) is not None:
            return
        shape = shape_of(waiting)
        group = self.groups[shape]
        del group.members[bisect_left(group.members, rank_of(waiting))]
        group.untold.pop(task_id, None)
        if not group.members:
            del self.groups[shape]

    def wake(self, now: float) -> None:
        """Let tasks compete whose time to try again has come."""
        for task_id in [task_id for task_id, at in self.later.items() if at <= now]:
            self.put(self.waiting[task_id], now)

    def explain(self, reasons: dict[Shape, Reason]) -> None:
        """Note why groups wait; all tasks of one whose reason is another now are to be told."""
        for shape, reason in reasons.items():
            group = self.groups.get(shape)
            if group is not None and group.reason != reason:
                group.reason = reason
                names = (name for _, _, name in group.members)
                group.untold = dict.fromkeys(name for name in names if self.waiting[name].told != reason.words)

    def untold(self) -> Iterator[tuple[str, Reason]]:
        """Yield tasks that have not been told why they wait."""
        for group in self.groups.values():
            if group.reason is not None:
                for task_id in group.untold:
                    yield task_id, group.reason
        for task_id in self.later:
            if self.waiting[task_id].told != LATER.words:
                yield task_id, LATER


LATER = Reason(WaitClass.LATER, "waiting for its next try")


def hosts_for(shape: Shape, pool: Pool) -> tuple[Sequence[str], str]:
    """Return workers that are large enough for a member, and what to say of a place there.

    Those to be avoided only if there is no other, even when the others are busy: it would fail there again.
    """
    fitting = pool.fitting(shape.needs)
    if not shape.avoid:
        return fitting, ""
    good = [name for name in fitting if name not in shape.avoid]
    if len(good) >= shape.needs.members or not fitting:
        return good, ""
    return fitting, "it failed on this worker before, but no other one is large enough"


def never_fits(shape: Shape, pool: Pool) -> Reason | None:
    """Return why a task would not fit if nothing else ran; None if it would."""
    drained = drained_for(shape.needs, pool)
    beside = f"; {_are_drained(drained)}" if drained else ""
    if not pool.hosts:
        none = _are_drained(list(pool.drained)) if pool.drained else "none is connected"
        return Reason(WaitClass.WORKER, f"waiting for a worker: {none}")
    fitting = pool.fitting(shape.needs)
    if not fitting:
        words = " and ".join(lacking(shape.needs, list(pool.hosts.values())))
        return Reason(WaitClass.SIZE, f"waiting for a larger worker: none has {words}{beside}")
    if len(fitting) < shape.needs.members:
        few = f"{len(fitting)} of {shape.needs.members} that it asks for at once are connected"
        return Reason(WaitClass.SIZE, f"waiting for more workers: {few}{beside}")
    return None


def drained_for(needs: Needs, pool: Pool) -> list[str]:
    """Return drained workers that are large enough for a member."""
    return [name for name, host in pool.drained.items() if host.is_large_enough(needs)]


def _are_drained(workers: Sequence[str]) -> str:
    """Return that workers are drained, and how they are taken in again."""
    if len(workers) == 1:
        return f"{workers[0]} is drained; `trainwright worker undrain {workers[0]}` takes it in again"
    some = ", ".join(workers[:4]) + (" …" if len(workers) > 4 else "")
    return f"{some} are drained; `trainwright worker undrain ID` takes one in again"


def no_room(shape: Shape, pool: Pool, hosts: Sequence[str]) -> Reason:
    """Return what is said to a task that would fit if others had ended."""
    avoided = sorted(pool.hosts.keys() & set(shape.avoid))
    elsewhere = f" on another worker than {', '.join(avoided)}, where it failed" if avoided else ""
    there = bool(hosts) and hosts[0] in avoided
    return Reason(WaitClass.SLOTS, "waiting for a free place" + ("" if there else elsewhere))


def size_of(needs: Needs) -> str:
    """Return what a task asks for, in words."""
    parts = [f"{needs.gpu} GPU" if needs.gpu else "", f"{needs.cpu:g} CPU" if needs.cpu else ""]
    parts += [f"{gib(needs.memory)} memory" if needs.memory else ""]
    words = ", ".join(part for part in parts if part) or "nothing"
    return f"{words} on each of {needs.members} workers" if needs.members > 1 else words
