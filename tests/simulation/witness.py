"""Whoever watches programs commit: what was true at that moment cannot be told from the log afterwards.

Not here: what must be true at the end (``checker.py``).
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain

from services.scheduler.store import LOST
from tests.simulation.bus import SimLog
from tests.simulation.model import room_is_kept
from tests.simulation.programs import SimService
from tests.simulation.workers import SimWorker
from tests.simulation.world import Program
from trainwright.contracts.base import Newer, Once
from trainwright.contracts.queue import PlacementState
from trainwright.contracts.topics import TOPIC_OF
from trainwright.runtime.envelope import Reread

WELL_SECONDS = 14.0
"""Of a worker that beats every 2 s; its lease is 8 s, and what it says may be read 4 s late."""


class Witness:
    """Notes each promise that a commit breaks."""

    def __init__(self, log: SimLog, schedulers: list[SimService], workers: list[SimWorker]) -> None:
        self.broken: list[str] = []
        self._log = log
        self._schedulers = schedulers
        self._workers = {worker.name: worker for worker in workers}
        self._held: dict[str, list[tuple[str, float]]] = {}
        """The cores that each task holds, by worker."""
        self._lost: set[str] = set()
        self._sent: dict[str, int] = defaultdict(int)

    def on_commit(self, program: Program) -> None:
        """Look at what a program has just committed."""
        self._check_sent(program)
        if isinstance(program, SimService) and program in self._schedulers:
            self._check_lease(program)
            self._check_room()
            self._check_silence()

    def on_position(self, program: Program, records: Sequence[Reread]) -> None:
        """What a reader says it is done with has its place in its store."""
        if not isinstance(program, SimService):
            return
        state = program.state
        for record in records:
            opened = self._log.open(record)
            event = opened[1] if opened is not None else None
            if event is None or type(event) not in program.reactions.get(TOPIC_OF[type(event)], {}):
                continue
            guard = event.guard
            if isinstance(guard, Newer):
                applied = state.guards.get((record.topic, guard.subject), (-1, -1)) >= guard.order
            else:
                applied = not isinstance(guard, Once) or f"{record.topic}/{guard.key}" in state.inbox
            if not applied:
                what = f"{type(event).__name__} of {event.subject}"
                self.broken.append(f"I1: {program.name} went past {what} and has not applied it")

    def _check_sent(self, program: Program) -> None:
        """What counts as sent is on the log."""
        done, last = program.state.done, self._sent[program.name]
        for seq in reversed(done):
            if seq <= last:
                break
            self._sent[program.name] = max(self._sent[program.name], seq)
            if done[seq][1].id not in self._log.ids:
                self.broken.append(f"I1: {program.name} takes an event for sent that is not on the log")

    def _check_lease(self, program: SimService) -> None:
        """Of a service's processes only the one that leads writes what only one may write."""
        found, lease = program.state.lease, program.lease
        if lease is not None and found.holder is not None and found.holder != lease._holder:
            self.broken.append(f"lease: {program.name} wrote after another process had taken over")

    def _check_room(self) -> None:
        """No worker is given more than it has."""
        written = self._schedulers[0].state.written.get("entries")
        if written is None:
            return
        for task_id, one in written.items():
            placement = one.value["placement"] if one is not None else {}
            has_place = placement.get("state") == PlacementState.ASSIGNED
            members = (placement["members"] or [placement]) if has_place else []
            self._held[task_id] = [(member["worker_id"], member["slots"]["cpu"]) for member in members]
        held: dict[str, float] = defaultdict(float)
        for worker_id, cpu in chain.from_iterable(self._held.values()):
            held[worker_id] += cpu
        self.broken += room_is_kept(held, {name: worker.cpus for name, worker in self._workers.items()})

    def _check_silence(self) -> None:
        """Unreachable is not failed: who could speak all the time, and was only not heard, is not given up."""
        for name, one in self._schedulers[0].state.written.get("workers", {}).items():
            if one is None or one.value["state"] != LOST:
                self._lost.discard(name)
            elif name not in self._lost:
                self._lost.add(name)
                worker = self._workers[name]
                well = worker.world.now - worker.well_since
                if worker.life is not None and well > WELL_SECONDS:
                    self.broken.append(f"lease: {name} was given up, and had been well for {well:.0f} s")
