"""Preemption: which runs give their places up for a task of a higher priority, so that the least work is lost.

Only runs of a strictly lower priority are asked, never one that the task gave its own place up for before, none
that has just started again after it gave its place up, and none that is stopping already. So no two take places
from each other for ever, and nobody loses his for ever: each time he has it for longer. Who saves when asked gets
on however short that is: after a minute he may be asked where others would lose more than his time is worth.

Where much would be lost, a task waits first, within a bound: until a run saves or ends whose moment is known; and
until it has waited as long (each second counted with the GPUs of the one it is about) as the others had worked
without a checkpoint when it came: who does not know for how long he will need it rents until he could have bought.
One that is not urgent has leisure: its seconds count for less, and it waits for what even those lose who save when
they are asked, for their next start: meanwhile a place may become free for which nobody has to go.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from services.scheduler.domain.pool import Host, Needs, Room, View
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import Clearing, Run, State, weight_of

DAY = 86_400.0
LEISURE = 6.0
"""So many seconds of a task that is not urgent (of the default priority, or a lower one) count for one."""
LONGER = 24.0
"""Such a task waits so many times longer for others, at most."""
SPREAD = 4
"""Runs on several workers that are tried as the first to leave for a gang."""


def protected_until(run: Run, state: State) -> float:
    """Return until when a run that gave its place up has the next."""
    return run.since + min(state.policy.protected * (2.0**run.gave_way - 1), DAY)


def left_alone_until(run: Run, state: State) -> float:
    """Return until when nobody asks a run for its place, however much others would lose."""
    until = protected_until(run, state)
    return min(until, run.since + state.policy.protected) if run.heeds_stop else until


def may_take(waiting: Waiting, run: Run, state: State, now: float) -> bool:
    """Return whether a task may have the place of a run."""
    return (
        run.priority < waiting.priority
        and run.may_yield
        and run.task_id not in waiting.spares
        and left_alone_until(run, state) <= now
    )


@dataclass(frozen=True, slots=True)
class Patience:
    """Since when a task waits, until when it may, so that others lose less, and what a second counts for."""

    now: float
    since: float
    until: float
    weight: float
    urgent: bool

    def price(self, run: Run, lost: float) -> tuple[float, float]:
        """Return what a run loses if it goes at its best moment, with the wait for that, and the moment."""
        best = lost, self.now
        if self.now < self.until:
            for at, less in ((run.saves_by(self.now), run.least_lost(self.now)), (run.ends, 0.0)):
                if self.now < at <= self.until:
                    best = min(best, (less + (at - self.now) * self.weight, at))
        return best

    def timed(self, clearing: Clearing, runs: Iterable[Run]) -> Clearing:
        """Return a clearing with the moment until which it is put off, if it is."""
        found = [(self.price(run, run.lost_work(self.now))[1], run) for run in runs]
        at, last = max(found, key=lambda pair: (pair[0], pair[1].task_id))
        if at > self.now:
            return replace(clearing, at=at, after=last.task_id)
        before = sum(self._worked(run) for _, run in found)
        at = min(self.until, self.since + before / max(self.weight, 0.001))
        return replace(clearing, at=at) if at > self.now else clearing

    def _worked(self, run: Run) -> float:
        """Return what a run would have lost when the task came; to an urgent one its next start does not count."""
        lost = run.lost_work(self.since)
        return lost - run.least_lost(self.since) if self.urgent else lost


def patience_of(waiting: Waiting, state: State, now: float) -> Patience:
    """Return how long a task waits for others to lose less."""
    since, urgent, weight = waiting.queued_at, waiting.priority > 0, weight_of(waiting.needs)
    until = since + state.policy.forbearance * (1 if urgent else LONGER)
    return Patience(now, since, until, weight if urgent else weight / LEISURE, urgent)


Victims = list[tuple[float, Run]]
"""What each loses, and who it is; the least first."""
Able = dict[str, Victims]


def able(state: State, now: float) -> Able:
    """Return, by worker, the runs that could give way to somebody, and what would be lost; the least first.

    What is left of the time for which one that saves when it is asked has its place counts as lost.
    """
    found: Able = {}
    for run in state.runs.values():
        if run.may_yield and left_alone_until(run, state) <= now:
            lost = run.lost_work(now) + max(0.0, protected_until(run, state) - now) * weight_of(run.needs)
            for worker_id, _ in run.parts:
                found.setdefault(worker_id, []).append((lost, run))
    for runs in found.values():
        runs.sort(key=lambda pair: (pair[0], pair[1].task_id))
    return found


def clear(
    waiting: Waiting,
    hosts: Collection[str],
    state: State,
    view: View,
    found: Able,
    gone: Collection[str],
    now: float,
) -> Clearing | None:
    """Return whom to ask for a task's places, and from when on if not now; or None.

    ``found`` are the runs that could give way; ``gone`` are those that were asked in this pass already, and
    workers where places are kept for others.
    """

    patience = patience_of(waiting, state, now)

    def victims_on(worker_id: str, leaving: Collection[str]) -> Victims | None:
        those = [
            (patience.price(run, lost)[0], run)
            for lost, run in found.get(worker_id, ())
            if run.priority < waiting.priority and run.task_id not in waiting.spares and run.task_id not in gone
        ]
        those.sort(key=lambda pair: (pair[0], pair[1].task_id))
        return fewest(waiting.needs, worker_id, state, view, those, leaving)

    # A gang may have to have places cleared beside others that are free.
    some = found.keys() & set(hosts) if waiting.needs.members == 1 else set(hosts)
    clearing = cheapest(waiting, [name for name in some if name not in gone], victims_on, state)
    return clearing and patience.timed(clearing, [state.runs[name] for name in clearing.victims])


def cheapest(
    waiting: Waiting,
    hosts: Iterable[str],
    victims_on: Callable[[str, Collection[str]], Victims | None],
    state: State,
) -> Clearing | None:
    """Return the workers where the least is lost, one for each member of a task; None if there are too few.

    Greedy: each next worker is the one where, beside all who leave already, the least more is lost. For a gang
    that is tried anew with each of the runs that would free most for what they lose, as the first to leave.
    ``victims_on`` says who has to leave a worker beside those who leave anyhow, or None.
    """
    options = {name: found for name in hosts if (found := victims_on(name, ())) is not None}
    if len(options) < waiting.needs.members:
        return None
    tried = [_greedy(waiting, dict(options), victims_on, {})]
    if waiting.needs.members > 1:
        tried += [
            _greedy(waiting, _beside(options, run, victims_on), victims_on, {run.task_id: lost})
            for lost, run in _spread(options)
        ]
    clearing = min(tried, key=lambda one: (one.lost, one.victims))
    return clearing if clearing.victims else None


def _spread(options: Mapping[str, Victims]) -> Victims:
    """Return the runs on several workers that lose the least for each of them, some."""
    found = {run.task_id: (lost, run) for victims in options.values() for lost, run in victims}
    several = [(lost / len(run.parts), lost, run) for lost, run in found.values() if len(run.parts) > 1]
    several.sort(key=lambda one: (one[0], one[2].task_id))
    return [(lost, run) for _, lost, run in several[:SPREAD]]


def _beside(
    options: Mapping[str, Victims], run: Run, victims_on: Callable[[str, Collection[str]], Victims | None]
) -> dict[str, Victims]:
    """Return who else would have to leave each worker if a run left."""
    there = {name for name, _ in run.parts}
    return {
        name: found if name not in there else victims_on(name, (run.task_id,)) or []
        for name, found in options.items()
    }


def _greedy(
    waiting: Waiting,
    options: dict[str, Victims],
    victims_on: Callable[[str, Collection[str]], Victims | None],
    names: dict[str, float],
) -> Clearing:
    """Choose a worker for each member; ``names`` are those who leave anyhow, and what they lose."""
    chosen = list[str]()
    while len(chosen) < waiting.needs.members:
        _, worker_id = min((sum(lost for lost, _ in found), name) for name, found in options.items())
        victims = options.pop(worker_id)
        chosen.append(worker_id)
        names |= {run.task_id: lost for lost, run in victims}
        for other in {name for _, run in victims for name, _ in run.parts} & options.keys():
            options[other] = victims_on(other, names) or []
    return Clearing(waiting.task_id, tuple(names), tuple(chosen), sum(names.values()))


def fewest(
    needs: Needs, worker_id: str, state: State, view: View, runs: Victims, leaving: Collection[str]
) -> Victims | None:
    """Return the runs on a worker that lose the least, and whose places are enough for one more; None if none are.

    ``runs`` are those that may be taken and what each loses, the least first; ``leaving`` leave anyhow.
    """
    host, free, parts = state.pool.hosts[worker_id], view.room(worker_id), state.runs_on.get(worker_id, {})
    for name in leaving:
        free = free.plus(parts[name]) if name in parts else free
    if len(free.gpus) >= needs.gpu and host.pick(needs, free) is not None:
        return []
    those = [pair for pair in runs if pair[1].task_id not in leaving]
    best = _fewest_gpus(needs.gpu - len(free.gpus), those, parts)
    if best and host.pick(needs, _together(free, best, parts)) is not None:
        return best
    return _one_by_one(needs, host, free, those, parts)


def _fewest_gpus(short: int, runs: Victims, parts: Mapping[str, Room]) -> Victims | None:
    """Return the runs that lose the least and have as many GPUs as are short: a knapsack of a few GPUs."""
    best: dict[int, tuple[float, Victims]] = {0: (0.0, [])}
    for lost, run in runs:
        gpus = len(parts[run.task_id].gpus)
        for has, (sum_, some) in sorted(best.items(), reverse=True) if gpus else ():
            more = min(has + gpus, short)
            if has < short and (more not in best or sum_ + lost < best[more][0]):
                best[more] = sum_ + lost, [*some, (lost, run)]
    return best[short][1] if short in best else None


def _one_by_one(needs: Needs, host: Host, free: Room, runs: Victims, parts: Mapping[str, Room]) -> Victims | None:
    """Return runs, those first that lose the least, until there is enough of everything, less those in vain."""
    taken, room = Victims(), free
    for pair in runs:
        taken.append(pair)
        room = room.plus(parts[pair[1].task_id])
        if host.pick(needs, room) is not None:
            break
    else:
        return None
    for pair in reversed(taken[:-1]):
        less = room.minus(parts[pair[1].task_id])
        if host.pick(needs, less) is not None:
            taken.remove(pair)
            room = less
    return taken


def _together(free: Room, runs: Victims, parts: Mapping[str, Room]) -> Room:
    for _, run in runs:
        free = free.plus(parts[run.task_id])
    return free
