"""What the scheduler does by itself: the placing pass, the sweep for lost workers and attempts, the probe."""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from services.scheduler.board import Board, Seated, Standing
from services.scheduler.domain.planning import plan
from services.scheduler.domain.plans import Plan, Seat
from services.scheduler.domain.queue import Reason
from services.scheduler.domain.state import Clearing, Policy
from services.scheduler.domain.tasks import waits_for_worker
from services.scheduler.leases import Leases, Ref
from services.scheduler.members import (
    broken_up,
    lose,
    meeting_at,
    run_commands,
    seated,
    stop_commands,
    watched,
)
from services.scheduler.requests import uncordon
from services.scheduler.settings import SchedulerSettings
from services.scheduler.store import (
    ALIVE,
    DRAINING,
    ENTRIES,
    LOST,
    WORKERS,
    Entry,
    assigned,
    find_entry,
    find_worker,
    get_entry,
    get_worker,
    save_entry,
    save_worker,
)
from trainwright.contracts.base import Event
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.pulse import SchedulerProbed
from trainwright.contracts.queue import Member, PlacementAssigned, PlacementState, TaskQueued
from trainwright.contracts.task import StopKind
from trainwright.runtime.clock import Backoff, Clock, derived_id
from trainwright.runtime.envelope import Cause
from trainwright.runtime.outbox import emit
from trainwright.runtime.pulse import PulseSender
from trainwright.runtime.telemetry.figures import count, observe
from trainwright.runtime.telemetry.names import PLACE, PLACEMENTS, PLACING_SECONDS
from trainwright.runtime.telemetry.tracing import TRACING
from trainwright.storage.document import DocumentStore, Reader, Transaction

logger = logging.getLogger(__name__)

SEATS = 100
"""Places that one pass gives; then others have their turn, and the next one follows at once."""
TOLD = 50
"""Tasks that one pass tells why they wait."""
SAID_EVERY = 15.0
"""Seconds after which the members of a gang that ends are told again."""
SPARED = 20
"""Tasks that a run gave its place up for which are remembered."""


@dataclass(slots=True)
class Passes:
    """The scheduler's own work over its store."""

    store: DocumentStore
    leases: Leases
    settings: SchedulerSettings
    clock: Clock
    pulses: PulseSender
    leads: bool = True
    """Whether this process writes; of a service with a standby only one does."""
    board: Board = field(init=False)
    _bell: asyncio.Event = field(default_factory=asyncio.Event)
    _is_due: bool = False
    """Whether the events of this turn changed something."""
    _is_apart: bool = False
    """Whether passes are made in transactions of their own: one that failed must not take events along."""
    _missing: dict[tuple[Ref, str], float] = field(default_factory=dict)
    """When the first heartbeat was heard that lacked an attempt which has a place there."""
    _unsent: int | None = None
    """The oldest event that still waited to be sent at the last sweep."""
    _said: dict[str, float] = field(default_factory=dict)
    """When the members of a gang that ends were last told, by task."""
    _told: dict[str, float] = field(default_factory=dict)
    """Silence of a worker that was last told to those who wait for it, by task."""

    def __post_init__(self) -> None:
        settings, grace = self.settings, self.settings.preempt_grace
        policy = Policy(
            protected=settings.protected,
            patience=grace,
            grace=grace,
            forbearance=settings.forbearance,
            overdue=settings.overdue,
        )
        self.board = Board(self.clock, lambda worker: not self.leads or self.leases.hears(worker), policy)

    def wake(self, collection: str | None = None, id: str = "") -> None:
        """Ask for a pass: the queue or the capacity changed, by the document named."""
        if collection is not None:
            self.board.touch(collection, id)
        self._bell.set()

    def note(self, collection: str, id: str) -> None:
        """Ask for a pass at the end of this turn of events: they changed the document named."""
        self.board.touch(collection, id)
        self._is_due = True

    async def follow_up(self, tx: Transaction) -> Callable[[], None] | None:
        """Run a pass in the transaction of the events that ask for it: one commit less until a worker hears."""
        if not self._is_due:
            return None
        self._is_due = False
        if self._is_apart or not self.leads:
            return self.wake
        try:
            return await self._pass(tx)
        except Exception:
            self._is_apart = True
            self.wake()
            raise

    async def place_for_ever(self) -> None:
        """Run a pass whenever somebody rang."""
        count(PLACEMENTS, by=0)
        self.board.forget()
        self.leads = True
        try:
            await self._place_for_ever()
        finally:
            self.leads = False

    async def _place_for_ever(self) -> None:
        backoff = Backoff(self.clock)
        self.wake()
        while True:
            await self._bell.wait()
            self._bell.clear()
            try:
                await self.place()
                backoff.reset()
            except StoreUnavailable as error:
                logger.warning("placing waits: %s", error)
                self.wake()
                await backoff.wait()

    async def place(self) -> None:
        """Give waiting tasks their places, in order, in one transaction."""
        async with self.store.transaction() as tx:
            committed = await self._pass(tx)
        committed()
        self._is_apart = False

    async def _pass(self, tx: Transaction) -> Callable[[], None]:
        """Give waiting tasks their places; return what is to be called once that is committed."""
        board, began = self.board, self.clock.monotonic()
        folded = await board.refresh(tx)
        found = plan(board.state, board.now(), limit=SEATS)
        for seat in found.seats:
            await self._assign(seat, tx)
        for clearing in found.clearings:
            await self._clear(clearing, tx)
        board.state.queue.explain(found.reasons)
        given = {seat.task_id for seat in found.seats}
        untold = [(name, why) for name, why in board.state.queue.untold() if name not in given]
        for task_id, reason in untold[:TOLD]:
            await self._tell(task_id, reason, tx)

        def committed() -> None:
            board.settle(folded)
            self._remember(found)
            count(PLACEMENTS, by=len(found.seats))
            observe(PLACING_SECONDS, value=self.clock.monotonic() - began)
            if found.more or len(untold) > TOLD:
                self.wake()

        return committed

    def _remember(self, found: Plan) -> None:
        state = self.board.state
        state.held, state.in_vain, state.kept = found.held, found.in_vain, found.kept
        state.put_off = found.put_off
        turns = [seat.by_turn for seat in found.seats]
        state.turns = state.turns + len(turns) if True not in turns else len(turns) - 1 - turns.index(True)

    async def look(self) -> Board:
        """Return the board as the store has it now; one who stands by reads it anew, for the leader writes it."""
        if not self.leads:
            await self.look_in(self.store)
        elif self.board.is_behind:
            async with self.store.transaction() as tx:
                await self.look_in(tx)
        return self.board

    async def look_in(self, reader: Reader) -> Board:
        """Return the board as a transaction has it; who stands by reads without one, for a look only."""
        if not self.leads:
            self.board.forget()
        self.board.settle(await self.board.refresh(reader))
        return self.board

    async def watch(self) -> None:
        """Give up workers that were silent for their lease."""
        self.leases.tick()
        for known in list(self.board.workers.values()):
            if known.state in (ALIVE, DRAINING) and self.leases.is_expired(known.worker):
                await self._lose_worker(known.worker.worker_id)

    async def sweep(self) -> None:
        """Give up attempts that their worker does not know, or that nobody waits for any more."""
        await self.look()
        lost = {name for name, known in self.board.workers.items() if known.state == LOST}
        present = dict(self.board.standings)
        refs = {((name, one.attempt), member.worker_id) for name, one in present.items() for member in one.members}
        if await self._is_mute():
            self._missing.clear()  # who has not heard a command from us cannot list its attempt
        self._missing = {ref: at for ref, at in self._missing.items() if ref in refs}
        self._said = {name: at for name, at in self._said.items() if name in present}
        for task_id, standing in present.items():
            silent = [member for member in standing.members if member.worker_id in lost]
            if silent:
                await self._wait_for_worker(task_id, standing, silent[0])
            elif standing.told:
                self._told.pop(task_id, None)
                await self._explain(task_id, standing, "")
            for member in standing.members if not (silent or standing.told) else ():
                why = self._unknown_to_its_worker(task_id, standing, member)
                if why is not None:
                    await self._lose_member(task_id, standing, member, why)
                    break
            else:
                await self._say_again(task_id, standing)
        for worker_id, known in list(self.board.workers.items()):
            if known.cordon is not None and known.cordon.until is not None:
                await self._take_in_again(worker_id)
        self.wake()  # tasks whose time to try again has come

    async def probe(self) -> None:
        """Send a probe of our own path through Kafka, on every partition."""
        now, seq = self.clock.now(), self.leases.next_probe()
        for voice in self.leases.voices:
            self.pulses.send(voice, SchedulerProbed(scheduler=voice, seq=seq, time=now))

    async def _assign(self, seat: Seat, tx: Transaction) -> None:
        entry, now = await self._open(seat.task_id, tx), self.clock.now()
        attempt = max(entry.placement.attempt, entry.task.attempt) + 1
        about = {"trainwright.subject": seat.task_id, "trainwright.attempt": str(attempt)}
        span = TRACING.begin(PLACE, "scheduler", PLACE.name, entry.traceparent, lambda: about)
        entry = seated(entry, seat, attempt, now, hosts=self.board.state.pool.hosts.__getitem__)
        if entry.placement.members:
            entry = self._meeting(entry)
        await save_entry(tx, entry)
        placed = replace(entry, traceparent=span.traceparent)
        events = [PlacementAssigned(placement=entry.placement), *run_commands(entry)]
        await self._emit(tx, events, placed)
        span.end()

    async def _open(self, task_id: str, tx: Transaction) -> Entry:
        self.board.touch(ENTRIES.name, task_id)
        return await get_entry(tx, task_id)

    def _meeting(self, entry: Entry) -> Entry:
        """Choose where the members of a gang meet; ports on one machine are everybody's there."""
        known, meetings = self.board.workers, self.board.meetings
        taken = {(known[name].worker.hostname, port) for name, port in meetings.values() if name in known}
        workers = [known[member.worker_id].worker for member in entry.placement.members]
        entry = meeting_at(entry, workers, taken)
        if entry.placement.rendezvous is not None:
            meetings[entry.task.task_id] = workers[0].worker_id, entry.placement.rendezvous.port
        return entry

    async def _clear(self, clearing: Clearing, tx: Transaction) -> None:
        """Ask runs to save a checkpoint and give their places up."""
        for task_id in clearing.victims:
            entry = await self._open(task_id, tx)
            if entry.placement.state is not PlacementState.ASSIGNED or entry.asked is not None:
                continue
            entry = replace(
                entry,
                asked=StopKind.PREEMPT,
                gives_way_to=clearing.task_id,
                gave_way=entry.gave_way + 1,
                spares=(*entry.spares, clearing.task_id)[-SPARED:],
            )
            await save_entry(tx, entry)
            why = "can start now" if entry.guest_of == clearing.task_id else "has a higher priority"
            why = f"its place is needed for {clearing.task_id}, which {why}"
            stops = stop_commands(entry, StopKind.PREEMPT, grace=self.settings.preempt_grace, reason=why)
            await self._emit(tx, stops, entry, "preempt")

    async def _tell(self, task_id: str, reason: Reason, tx: Transaction) -> None:
        entry = await self._open(task_id, tx)
        entry = entry.moved(self.clock.now(), reason=reason.words, waits_for=reason.wait)
        await save_entry(tx, replace(entry, told=reason.words))
        await self._emit(tx, [TaskQueued(placement=entry.placement)], entry)

    async def _lose_worker(self, worker_id: str) -> None:
        async with self.store.transaction() as tx:
            known = await find_worker(tx, worker_id)
            if known is None or known.state == LOST or not self.leases.is_expired(known.worker):
                return
            silence = self.leases.silence(worker_id)
            logger.warning("worker %s is lost: silent for %.1f s", worker_id, silence)
            await save_worker(tx, replace(known, state=LOST, gone_at=self.clock.now()))
            self.board.touch(WORKERS.name, worker_id)
            for entry in await assigned(tx, worker_id):
                member = next((one for one in watched(entry) if one.worker_id == worker_id), None)
                if member is not None and not waits_for_worker(entry.task):
                    why = f"its worker was silent for {silence:.0f} s"
                    await self._lose_in(tx, entry, member, why)
        self.wake()

    async def _take_in_again(self, worker_id: str) -> None:
        """Let a worker that was left out for a time take attempts again, once that time is over."""
        async with self.store.transaction() as tx:
            known = await get_worker(tx, worker_id)
            until = None if known.cordon is None else known.cordon.until
            if until is not None and until <= self.clock.now():
                _, events = await uncordon(known, "scheduler", tx=tx, clock=self.clock)
                cause = Cause(derived_id("scheduler", worker_id, known.decisions))
                await emit(tx, events, source="scheduler", cause=cause, clock=self.clock)
                self.board.touch(WORKERS.name, worker_id)

    async def _wait_for_worker(self, task_id: str, standing: Standing, member: Seated) -> None:
        """Say of a run on a lost worker that it is waited for, as its silence doubles; give it up if it is not."""
        silence = self.leases.silence(member.worker_id)
        entry = await find_entry(self.store, task_id)
        if entry is None or not waits_for_worker(entry.task):
            await self._lose_member(task_id, standing, member, "its worker was silent")
        elif silence >= max(self.settings.lease, 2 * self._told.get(task_id, 0.0)):
            self._told[task_id] = silence
            await self._explain(task_id, standing, f"its worker is silent for {silence:.0f} s; waiting for it")

    async def _explain(self, task_id: str, standing: Standing, reason: str) -> None:
        async with self.store.transaction() as tx:
            found = await get_entry(tx, task_id)
            if found.placement.version == standing.version:
                found = found.moved(self.clock.now(), reason=reason)
                await save_entry(tx, replace(found, told=reason))
                await self._emit(tx, [PlacementAssigned(placement=found.placement)], found)
            self.wake(ENTRIES.name, task_id)

    async def _lose_member(self, task_id: str, standing: Standing, seated: Seated, why: str) -> None:
        async with self.store.transaction() as tx:
            found = await find_entry(tx, task_id)
            if found is not None and found.placement.version == standing.version:
                for member in [one for one in watched(found) if one.rank == seated.rank]:
                    await self._lose_in(tx, found, member, why)
            self.wake(ENTRIES.name, task_id)

    async def _lose_in(self, tx: Transaction, entry: Entry, member: Member, why: str) -> None:
        entry, events = lose(entry, member, why, self.clock.now())
        await save_entry(tx, entry)
        await self._emit(tx, events, entry, *(["lost", str(member.rank)] if entry.endings else []))
        self.board.touch(ENTRIES.name, entry.task.task_id)

    async def _say_again(self, task_id: str, standing: Standing) -> None:
        """Say to the members of a gang that ends what may have been lost on its way: a repeat is harmless."""
        now = self.clock.monotonic()
        if not standing.breaks_up or now - self._said.setdefault(task_id, now) < SAID_EVERY:
            return
        self._said[task_id] = now
        async with self.store.transaction() as tx:
            entry = await find_entry(tx, task_id)
            if entry is not None and entry.placement.version == standing.version:
                await self._emit(tx, broken_up(entry), entry, "again", str(int(now)))

    def _unknown_to_its_worker(self, task_id: str, standing: Standing, member: Seated) -> str | None:
        """Return why an attempt is given up that its worker does not list as running, while we could hear."""
        healthy_since, pulse = self.leases.healthy_since, self.leases.pulses.get(member.worker_id)
        if pulse is None or healthy_since is None or pulse.heartbeat.incarnation != member.incarnation:
            return None
        ref = task_id, standing.attempt
        if ref in pulse.running:
            self._missing.pop((ref, member.worker_id), None)
            return None
        first = self._missing.setdefault((ref, member.worker_id), pulse.heard)
        lacking = pulse.heard - max(first, healthy_since)
        if ref in pulse.ended:
            return "its end was not told" if lacking > self.settings.ended_after else None
        return "its worker does not know it" if lacking > self.settings.unknown_after else None

    async def _is_mute(self) -> bool:
        """Return whether an event waited to be sent since the last sweep."""
        before, oldest = self._unsent, await self.store.outbox_pending("event", 1)
        self._unsent = oldest[0].seq if oldest else None
        return self._unsent is not None and self._unsent == before

    async def _emit(self, tx: Transaction, events: list[Event], entry: Entry, *parts: str) -> None:
        id = derived_id("scheduler", entry.task.task_id, entry.placement.version, *parts)
        cause = Cause(id, entry.traceparent)
        await emit(tx, events, source="scheduler", cause=cause, clock=self.clock)
