"""The pass: one pure function from what there is to who goes where, who has to give way, and why the others wait.

Order: priority, then fair share between strategies (``shares.py``), then age. The first task that does not fit is
the head: places are kept for it, and others may only have what they give back before it can start, or what it does
not need (EASY backfill, Lifka 1995). One place in eight goes to the task that has waited longest, if that is for
more than an hour, so that nobody waits for ever under tasks of a higher priority.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from heapq import heapify, heappop, heappush
from itertools import islice

from services.scheduler.domain import claims
from services.scheduler.domain.guests import clear_guests, may_lend
from services.scheduler.domain.heads import first_start
from services.scheduler.domain.plans import Plan, Seat
from services.scheduler.domain.pool import Needs, Room, View
from services.scheduler.domain.preempting import Able, able, clear
from services.scheduler.domain.queue import (
    Reason,
    Shape,
    Waiting,
    hosts_for,
    never_fits,
    no_room,
    rank_of,
    shape_of,
)
from services.scheduler.domain.shares import Ledger
from services.scheduler.domain.state import LIMIT, UNKNOWN, Clearing, Hold, State
from trainwright.contracts.queue import WaitClass

BLOCKED = Reason(WaitClass.SLOTS, "waiting for a free place")
TRIES = 1
"""Tasks for which one pass looks for places that could be cleared; another pass follows at once."""
VAIN = 5.0
"""Seconds for which nobody looks again where nothing could be cleared."""
AGAIN = 1.0
"""Seconds after which one that has that put off is looked at again: somebody may have saved meanwhile."""
LOOKED_AT = 50
"""Tasks of those that have waited longest that one pass looks at for the turn."""

Top = tuple[int, int, float, float, str]
"""Priority (negative), no claim, share, age, name."""
Entry = tuple[int, int, float, str, Shape]
"""The first of a group: priority (negative), no claim, age, name, and the group."""


def plan(state: State, now: float, *, extra: Iterable[Waiting] = (), limit: int = 200) -> Plan:
    """Return who gets a place now, in order.

    Args:
        state: What there is; it stays as it is.
        now: The time.
        extra: Tasks that are asked about as if they had been submitted.
        limit: Seats after which the pass ends; another one goes on.
    """
    return _Pass(state, now, limit).run(extra)


class _Pass:
    def __init__(self, state: State, now: float, limit: int) -> None:
        self.state, self.now, self.limit = state, now, limit
        self.view = View(state.pool)
        self.ledger = Ledger(state.shares, state.pool, now)
        self.seats: list[Seat] = []
        self.seated: set[str] = set()
        self.reasons: dict[Shape, Reason] = {}
        self.clearings: list[Clearing] = []
        self.head: Hold | None = None
        self.holds: dict[str, Hold] = {}
        self.gone: set[str] = set()
        self.lines: dict[str, list[Entry]] = {}
        self.hopeless: dict[Needs, bool] = {}
        self.positions: dict[Shape, int] = {}
        self.extra: dict[Shape, list[Waiting]] = {}
        self.lowest = min(state.yielding, default=UNKNOWN)
        self.refused: set[tuple[Needs, int | None, bool]] = set()
        """What found no place in this pass: nothing like it will."""
        self.given: dict[str, list[tuple[float, str, Room]]] = {}
        """What seats of this pass give back, and when, by worker."""
        self.in_vain = {vain: at for vain, at in state.in_vain.items() if now - at < VAIN}
        waits = state.queue.waiting
        self.put_off = {name: put for name, put in state.put_off.items() if put.at > now and name in waits}
        self.tries = 0
        self.able: Able | None = None
        for reservation in state.reservations.values():
            if reservation.worker_id in state.pool.hosts and reservation.until > now:
                self.view.give(reservation.worker_id, state.left_of(reservation))

    def run(self, extra: Iterable[Waiting]) -> Plan:
        for waiting in extra:
            self.extra.setdefault(shape_of(waiting), []).append(waiting)
        self._take_turn()
        tops = self._line_up()
        while tops and len(self.seats) < self.limit:
            strategy = heappop(tops)[-1]
            self._next_of(strategy)
            self._push(tops, strategy)
        more = bool(tops) or self.tries >= TRIES
        kept = claims.kept(self.state, self.seated, self.clearings)
        return Plan(self.seats, self.reasons, self.clearings, self.head, more, self.in_vain, self.put_off, kept)

    def _next_of(self, strategy: str) -> None:
        """Try the first of a strategy: after a place the next of its group follows, else the group is through."""
        line = self.lines[strategy]
        _, _, _, task_id, shape = line[0]
        waiting = self._waiting(task_id, shape)
        if task_id not in self.seated:
            refused = self._try(waiting, shape)
            if refused is not None:
                self.reasons[shape] = refused
                heappop(line)
                return
        heappop(line)
        self._push_next(line, shape)

    def _try(self, waiting: Waiting, shape: Shape, *, by_turn: bool = False) -> Reason | None:
        """Give a task its place, or return why it has none."""
        state, needs = self.state, waiting.needs
        refused = never_fits(shape, state.pool) or self.ledger.refusal(waiting.strategy, needs)
        if refused is not None:
            return refused
        alike = (needs, shape.limit, shape.preemptible)
        plain = not (shape.avoid or shape.lost_on or shape.claims or state.reservations)
        if plain and alike in self.refused and not self._may_block(waiting, by_turn):
            return BLOCKED
        hosts, said = hosts_for(shape, state.pool)
        seat = self._reserved_seat(waiting, hosts) or self._seat(waiting, shape, hosts, said, by_turn)
        if seat is not None:
            self.seats.append(seat)
            self.seated.add(waiting.task_id)
            self.ledger.give(waiting.strategy, needs)
            return None
        if waiting.claims:
            self._keep_claimed(waiting)
        elif self._may_block(waiting, by_turn):
            self._block(waiting, hosts, by_turn)
        if plain:
            self.refused.add(alike)
        return no_room(shape, state.pool, hosts) if shape.avoid else BLOCKED

    def _seat(self, waiting: Waiting, shape: Shape, hosts: Sequence[str], said: str, by_turn: bool) -> Seat | None:
        parts: list[tuple[str, Room]] = []
        allowed = set(hosts) if shape.avoid else None
        last: tuple[str, Room] | None = None
        lent: list[tuple[str, Room]] = []
        for worker_id, part in self.view.candidates(waiting.needs, waiting.priority):
            if allowed is not None and worker_id not in allowed:
                continue
            if not self._may_have(waiting, worker_id, part):
                if may_lend(self.holds[worker_id], waiting, self.state, self.now):
                    lent.append((worker_id, part))
                continue
            if worker_id == waiting.lost_on:
                last = worker_id, part
                continue
            parts.append((worker_id, part))
            if len(parts) == waiting.needs.members:
                break
        if last is not None and len(parts) < waiting.needs.members:
            parts.append(last)
        lent = lent[: waiting.needs.members - len(parts)]
        if len(parts) + len(lent) < waiting.needs.members:
            return None
        ends = UNKNOWN if waiting.limit is None else self.now + waiting.limit
        for worker_id, part in parts:
            self._give(waiting, worker_id, part)
        for worker_id, part in lent:
            self.view.give(worker_id, part)
        for worker_id, part in (*parts, *lent):
            self.given.setdefault(worker_id, []).append((ends, LIMIT, part))
        owner = self.holds[lent[0][0]].task_id if lent else None
        said = said if owner is None else f"its place is kept for {owner}: it gives it up once that one can start"
        return Seat(waiting.task_id, (*parts, *lent), said, by_turn=by_turn, guest_of=owner)

    def _may_have(self, waiting: Waiting, worker_id: str, part: Room) -> bool:
        """Return whether a place does not delay the one that it is kept for."""
        hold = self.holds.get(worker_id)
        if hold is None or hold.task_id == waiting.task_id or self._is_back_in_time(waiting, hold):
            return True
        spare = hold.spare[hold.workers.index(worker_id)]
        return len(part.gpus) <= len(spare.gpus) and part.cpu <= spare.cpu + 1e-9 and part.memory <= spare.memory

    def _is_back_in_time(self, waiting: Waiting, hold: Hold) -> bool:
        ends = UNKNOWN if waiting.limit is None else self.now + waiting.limit
        return ends <= hold.starts < UNKNOWN

    def _give(self, waiting: Waiting, worker_id: str, part: Room) -> None:
        self.view.give(worker_id, part)
        hold = self.holds.get(worker_id)
        if hold is None or hold.task_id == waiting.task_id or self._is_back_in_time(waiting, hold):
            return
        self._hold(hold.less(worker_id, part))

    def _hold(self, hold: Hold) -> None:
        if self.head is None or self.head.task_id == hold.task_id:
            self.head = hold
        for worker_id in hold.workers:
            self.holds[worker_id] = hold

    def _reserved_seat(self, waiting: Waiting, hosts: Sequence[str]) -> Seat | None:
        """Return a place in what is reserved for a task."""
        for reservation in self.state.reservations.values():
            worker_id = reservation.worker_id
            is_open = reservation.until > self.now and reservation.is_for(waiting)
            if not is_open or worker_id not in hosts or waiting.needs.members > 1:
                continue
            left = self.state.left_of(reservation)
            for seat in self.seats:
                if seat.reservation == reservation.reservation_id:
                    left = left.minus(seat.parts[0][1])
            left = Room(left.gpus, max(0.0, left.cpu), max(0, left.memory))
            part = self.state.pool.hosts[worker_id].pick(waiting.needs, left)
            if part is not None:
                return Seat(waiting.task_id, ((worker_id, part),), reservation=reservation.reservation_id)
        return None

    def _may_block(self, waiting: Waiting, by_turn: bool) -> bool:
        """Return whether there may be something to keep, or to clear, for a task that does not fit."""
        return self.head is None or self._may_clear(waiting, by_turn)

    def _may_clear(self, waiting: Waiting, by_turn: bool) -> bool:
        """Return whether it is worth a look if others could give their places up for a task."""
        if by_turn or waiting.priority <= self.lowest or self.tries >= TRIES:
            return False
        put, mine = self.put_off.get(waiting.task_id), waiting.needs
        if put is not None and self.now - put.seen < AGAIN:
            return False
        return not any(
            waiting.priority <= priority and all(more >= less for more, less in zip(mine, needs, strict=True))
            for priority, needs in self.in_vain
        )

    def _block(self, waiting: Waiting, hosts: Sequence[str], by_turn: bool) -> None:
        """Keep places for a task that does not fit, the first of all; have them cleared if it may."""
        if self.head is None and waiting.task_id in self.state.guests:
            gone = self.gone | self.holds.keys()
            clearing = clear_guests(waiting, hosts, self.state, self.view, self.now, gone)
            if clearing is not None:
                self._take(waiting, clearing)
                return
        hold = self._earliest(waiting, hosts) if self.head is None else None
        if self._may_clear(waiting, by_turn):
            self.tries += 1
            clearing = None if self._is_soon(waiting, hosts, hold) else self._clear(waiting, hosts)
            if clearing is not None and clearing.at <= self.now:
                self._take(waiting, clearing)
                return
            self.put_off.pop(waiting.task_id, None)
            if clearing is not None:
                self.put_off[waiting.task_id] = replace(clearing, seen=self.now)
            else:
                self.in_vain[waiting.priority, waiting.needs] = self.now
        if self.head is None and hold is not None:
            self._hold(hold)

    def _take(self, waiting: Waiting, clearing: Clearing) -> None:
        self.clearings.append(clearing)
        self.gone |= {*clearing.victims}
        self.holds = {name: self.holds[name] for name in self._kept_from(waiting)}
        self.put_off.pop(waiting.task_id, None)
        self._hold(self._cleared(waiting, clearing.workers, clearing.victims))

    def _keep_claimed(self, waiting: Waiting) -> None:
        """Keep the places that are being cleared for a task, and free ones beside them."""
        workers = tuple(name for name in claims.claimed(waiting.task_id, self.state) if name not in self.holds)
        if workers:
            self._hold(self._cleared(waiting, workers, self.state.claims.get(waiting.task_id, ())))

    def _cleared(self, waiting: Waiting, workers: tuple[str, ...], leaving: Collection[str]) -> Hold:
        return claims.cleared(waiting, workers, leaving, self.state, self.view, self.now)

    def _clear(self, waiting: Waiting, hosts: Sequence[str]) -> Clearing | None:
        if self.able is None:
            self.able = able(self.state, self.now)
        gone = self.gone | claims.closed_to(waiting, self.holds, self.state) | self._let_save_for_others(waiting)
        return clear(waiting, hosts, self.state, self.view, self.able, gone, self.now)

    def _let_save_for_others(self, waiting: Waiting) -> set[str]:
        """Return runs that a task of a higher priority lets save, or end, before it has their places."""
        waits = self.state.queue.waiting
        higher = [name for name in self.put_off if name in waits and waits[name].priority > waiting.priority]
        return {victim for name in higher for victim in self.put_off[name].victims}

    def _kept_from(self, waiting: Waiting) -> set[str]:
        """Return workers where places are kept for others."""
        return {name for name, hold in self.holds.items() if hold.task_id != waiting.task_id}

    def _is_soon(self, waiting: Waiting, hosts: Sequence[str], hold: Hold | None) -> bool:
        """Return whether a task will have its place so soon that nobody has to give one up."""
        latest = self.now + self.state.policy.patience
        if hold is None:
            some = [name for name in hosts if any(end <= latest for end, _, _ in self._releases(name)[:1])]
            hold = self._earliest(waiting, some) if len(some) >= waiting.needs.members else None
        return hold is not None and hold.starts <= latest

    def _earliest(self, waiting: Waiting, hosts: Sequence[str]) -> Hold | None:
        some = [name for name in hosts if name not in self.holds]
        return first_start(waiting, some, self.state, self.view, self._releases, self.now)

    def _releases(self, worker_id: str) -> list[tuple[float, str, Room]]:
        """Return what becomes free on a worker, seats of this pass included, the soonest first."""
        releases = self.state.releases(worker_id, self.now)
        given = self.given.get(worker_id)
        return sorted([*releases, *given]) if given else releases

    def _take_turn(self) -> None:
        """Let who has waited longest go first, whatever its priority, when it is the turn of such a one."""
        state, queue = self.state, self.state.queue
        if state.turns < state.policy.turn:
            return
        for task_id, since in islice(queue.ages.items(), LOOKED_AT):
            if self.now - since <= state.policy.overdue:
                return
            if task_id in queue.later:
                continue
            waiting = queue.waiting[task_id]
            shape = shape_of(waiting)
            if never_fits(shape, state.pool) or self.ledger.refusal(waiting.strategy, waiting.needs):
                continue
            self._keep_all_claimed()
            self._try(waiting, shape, by_turn=True)
            self.holds = {} if self.head is None else dict.fromkeys(self.head.workers, self.head)
            return

    def _keep_all_claimed(self) -> None:
        """Keep what is being cleared for others; that makes none of them the head."""
        for waiting in claims.claimants(self.state):
            self._keep_claimed(waiting)
        self.head = None

    def _waiting(self, task_id: str, shape: Shape) -> Waiting:
        found = self.state.queue.waiting.get(task_id)
        return found or next(one for one in self.extra[shape] if one.task_id == task_id)

    def _line_up(self) -> list[tuple[Top, str]]:
        """Return strategies in order; of groups that surely do not fit, only a strategy's first takes part."""
        first: dict[str, Entry] = {}
        for shape, group in self.state.queue.groups.items():
            if shape in self.extra:
                continue
            priority, age, task_id = group.members[0]
            entry = (priority, 0 if shape.claims else 1, age, task_id, shape)
            self.positions[shape] = 1
            if group.reason is BLOCKED and -priority <= self.lowest and self._cannot(shape):
                strategy = shape.strategy
                if strategy not in first or entry < first[strategy]:
                    first[strategy] = entry
            else:
                self.lines.setdefault(shape.strategy, []).append(entry)
        for strategy, entry in first.items():
            self.lines.setdefault(strategy, []).append(entry)
        for shape in self.extra:
            self.positions[shape] = 0
            self._push_next(self.lines.setdefault(shape.strategy, []), shape)
        tops: list[tuple[Top, str]] = []
        for strategy, line in self.lines.items():
            heapify(line)
            self._push(tops, strategy)
        return tops

    def _cannot(self, shape: Shape) -> bool:
        """Return, at little cost, whether a group surely has to wait for free places."""
        needs = shape.needs
        found = self.hopeless.get(needs)
        if found is None:
            found = self.view.cannot(needs) and len(self.state.pool.fitting(needs)) >= needs.members
            self.hopeless[needs] = found
        return found and not (shape.claims or self.state.reservations)

    def _push(self, tops: list[tuple[Top, str]], strategy: str) -> None:
        line = self.lines[strategy]
        if line:
            priority, claim, age, task_id, _ = line[0]
            heappush(tops, ((priority, claim, self.ledger.share(strategy), age, task_id), strategy))

    def _push_next(self, line: list[Entry], shape: Shape) -> None:
        position = self.positions[shape]
        self.positions[shape] = position + 1
        group = self.state.queue.groups.get(shape)
        members = group.members if group is not None else []
        if shape in self.extra:
            members = sorted([*members, *(rank_of(one) for one in self.extra[shape])])
        if position < len(members):
            priority, age, task_id = members[position]
            heappush(line, (priority, 0 if shape.claims else 1, age, task_id, shape))
