"""Bugs planted into the protocol, one at a time: each must be caught by the simulation, or its checker is none.

`python -m tests.simulation.mutations` tries seeds until each is caught, and says which seed did.
"""

import argparse
import asyncio
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from aiokafka import TopicPartition

from services.scheduler import handlers as scheduler_handlers
from services.scheduler import members, passes
from services.scheduler.leases import Leases
from services.scheduler.store import Entry
from services.task import repair
from services.task.domain import changes
from services.task.domain import tasks as transitions
from services.task.handlers import saving, tasks
from services.trainer_worker import handlers as worker_handlers
from tests.simulation import simulate, workers
from trainwright.contracts.attempt import AttemptEnded
from trainwright.contracts.errors import StoreUnavailable
from trainwright.contracts.queue import PlacementReleased
from trainwright.contracts.task import FINAL, TaskRetryScheduled, TaskStatus
from trainwright.runtime import apply, consumer, relay
from trainwright.runtime.outbox import emit
from trainwright.storage import memory
from trainwright.storage.document import LogPosition

Plant = Callable[[ExitStack], None]
MUTATIONS: dict[str, Plant] = {}


def planted(plant: Callable[[Callable[..., None]], None]) -> Callable[[Callable[..., None]], None]:
    """Register a mutation under its function's name; it gets a function that replaces attributes."""

    def enter(stack: ExitStack) -> None:
        def change(owner: Any, name: str, new: Any) -> None:
            stack.enter_context(patch.object(owner, name, new))

        plant(change)

    MUTATIONS[plant.__name__] = enter
    return plant


@planted
def skip_the_inbox(change: Callable[..., None]) -> None:
    """Every record is news, also repeats and older versions."""

    async def always(event: Any, tx: Any, scope: str) -> bool:
        return True

    change(apply, "is_news", always)


@planted
def commit_first(change: Callable[..., None]) -> None:
    """The position is kept before the records are applied."""
    whole = consumer.ConsumerLoop._apply

    async def commit_then_apply(self: Any, records: Any) -> int:
        kafka = self._kafka
        for record in records:
            partition = TopicPartition(record.topic, record.partition)
            kafka._log.positions[self._inbound.service, partition] = record.offset + 1
        return await whole(self, records)

    change(consumer.ConsumerLoop, "_apply", commit_then_apply)


@planted
def skip_what_the_store_refuses(change: Callable[..., None]) -> None:
    """Records that meet a store that is away are passed over."""

    async def applied(records: Any, inbound: Any) -> None:
        try:
            await apply.apply(records, inbound)
        except StoreUnavailable:
            return

    change(consumer, "apply", applied)


@planted
def skip_the_poll_of_a_bad_record(change: Callable[..., None]) -> None:
    """One record that cannot be read takes its whole poll with it."""

    async def applied(records: Any, inbound: Any) -> None:
        try:
            await apply.apply(records, inbound)
        except StoreUnavailable:
            raise
        except Exception:
            return

    change(consumer, "apply", applied)


@planted
def mark_before_sending(change: Callable[..., None]) -> None:
    """The relay marks rows as sent, then sends them."""

    async def drain(self: relay.Relay, producer: Any) -> int:
        sent = 0
        while rows := await self._store.outbox_pending("event", relay.BATCH):
            async with self._store.transaction() as tx:
                await tx.mark_sent([row.seq for row in rows], self._clock.now())
                await tx.set_log_position(LogPosition())
            await asyncio.wait_for(relay._send(producer, rows), relay.ACK_TIMEOUT)
            sent += len(rows)
        return sent

    change(relay.Relay, "drain", drain)


@planted
def give_up_what_is_not_acknowledged(change: Callable[..., None]) -> None:
    """Rows whose acknowledgement does not come in time are marked all the same."""
    send = relay._send

    async def sent(producer: Any, rows: Any) -> Any:
        try:
            return await asyncio.wait_for(send(producer, rows), 2)
        except TimeoutError:
            return []

    change(relay, "_send", sent)


@planted
def no_fence_in_the_task(change: Callable[..., None]) -> None:
    """What an older attempt says counts."""
    change(transitions, "is_fenced", lambda task, attempt: task.status in FINAL)


@planted
def a_retry_is_not_told(change: Callable[..., None]) -> None:
    """The task is saved, the event that says so is not."""
    save = saving.save

    async def saved(change: Any, tx: Any, actor: str) -> Any:
        events = await save(change, tx, actor)
        return [event for event in events if not isinstance(event, TaskRetryScheduled)]

    change(tasks, "save", saved)


@planted
def losses_are_charged(change: Callable[..., None]) -> None:
    """A lost worker costs the task a retry."""
    rules = {kind: replace(rule, charged=True) for kind, rule in repair.RULES.items()}
    change(repair, "RULES", rules)


@planted
def what_is_over_can_end_again(change: Callable[..., None]) -> None:
    """A late ending changes a task that is final. Two guards forbid it, the fence and the table; both are gone."""
    change(transitions, "is_fenced", lambda task, attempt: attempt < task.attempt)
    change(changes, "TRANSITIONS", dict.fromkeys(TaskStatus, frozenset(TaskStatus)))


@planted
def a_paused_task_that_is_lost_runs_on(change: Callable[..., None]) -> None:
    """The wish to pause is forgotten when the worker is lost."""
    change(transitions, "_is_pausing", lambda task: False)


@planted
def attempt_numbers_are_given_again(change: Callable[..., None]) -> None:
    """The next attempt has the last one's number."""
    moved = Entry.moved

    def same(self: Any, now: Any, **fields: Any) -> Any:
        if "attempt" in fields:
            fields["attempt"] = max(1, fields["attempt"] - 1)
        return moved(self, now, **fields)

    change(Entry, "moved", same)


@planted
def placements_keep_their_version(change: Callable[..., None]) -> None:
    """A placement changes and its version does not."""
    moved = Entry.moved

    def same(self: Any, now: Any, **fields: Any) -> Any:
        made = moved(self, now, **fields)
        version = max(1, self.placement.version)
        return replace(made, placement=made.placement.model_copy(update={"version": version}))

    change(Entry, "moved", same)


@planted
def slots_are_not_freed(change: Callable[..., None]) -> None:
    """An attempt that ended keeps its place."""

    async def ignored(self: Any, event: Any, *, tx: Any, clock: Any) -> list[Any]:
        return []

    change(scheduler_handlers.Handlers, "on_attempt_ended", ignored)
    change(scheduler_handlers, "released", lambda entry, why, now: (entry, []))


@planted
def losses_are_not_told(change: Callable[..., None]) -> None:
    """The scheduler gives an attempt up and says nothing."""
    lose = members.lose

    def silently(entry: Any, member: Any, why: str, now: Any) -> Any:
        entry, _ = lose(entry, member, why, now)
        return entry, [PlacementReleased(placement=entry.placement)]

    change(scheduler_handlers, "lose", silently)
    change(passes, "lose", silently)
    change(Entry, "is_unheard", False)


@planted
def what_was_lost_is_said_once(change: Callable[..., None]) -> None:
    """The scheduler does not say again that it gave an attempt up, heard or not."""
    change(Entry, "is_unheard", False)


@planted
def gangs_are_left_alone(change: Callable[..., None]) -> None:
    """When a member is over, the others are not stopped, and nobody says how their attempt ended."""
    change(members, "broken_up", lambda entry: [])
    change(passes, "broken_up", lambda entry: [])


@planted
def wishes_to_stop_are_not_passed_on(change: Callable[..., None]) -> None:
    """The worker never hears of a pause or a cancel."""
    change(scheduler_handlers.Handlers, "_pass_on", lambda self, entry: (entry, []))


@planted
def what_a_new_incarnation_lacks_goes_on(change: Callable[..., None]) -> None:
    """A worker that starts anew without an attempt is believed to have it."""

    async def none_of_its(tx: Any, worker_id: str) -> list[Any]:
        return []

    change(scheduler_handlers, "assigned", none_of_its)


@planted
def leases_by_the_wall_clock(change: Callable[..., None]) -> None:
    """Silence is measured by a clock that people set."""
    change(Leases, "silence", lambda self, worker_id: _by_wall(self, worker_id))


def _by_wall(leases: Any, worker_id: str) -> float:
    pulse = leases.pulses.get(worker_id)
    if pulse is None or leases.healthy_since is None:
        return 0.0
    return float((leases.clock.now() - pulse.heartbeat.time).total_seconds())


@planted
def the_scheduler_trusts_its_own_ears(change: Callable[..., None]) -> None:
    """Leases run while the scheduler itself cannot hear."""

    def silence(self: Any, worker_id: str) -> float:
        return float(self.clock.monotonic() - self._signs.get(worker_id, 0.0))

    change(Leases, "silence", silence)


@planted
def a_worker_runs_any_attempt(change: Callable[..., None]) -> None:
    """A command for another incarnation, or of an older attempt, is obeyed."""
    change(worker_handlers.CommandHandlers, "_refusal", lambda self, event, highest, clock: None)
    change(apply, "is_news", _not_for_commands(apply.is_news))


def _not_for_commands(is_news: Any) -> Any:
    async def checked(event: Any, tx: Any, scope: str) -> bool:
        return True if scope.endswith("command.v1") else bool(await is_news(event, tx, scope))

    return checked


@planted
def an_end_is_kept_and_not_told(change: Callable[..., None]) -> None:
    """Now and then a worker keeps an attempt's end without the event."""
    count = iter(range(10**9))

    async def emitted(tx: Any, events: Any, **kwargs: Any) -> None:
        if any(isinstance(event, AttemptEnded) for event in events) and next(count) % 3 == 0:
            return
        await emit(tx, events, **kwargs)

    change(workers, "emit", emitted)


@planted
def a_stop_is_for_one_incarnation(change: Callable[..., None]) -> None:
    """An agent that was restarted ignores a wish that was addressed to the one before."""
    on_stop = worker_handlers.CommandHandlers.on_stop_attempt

    async def picky(self: Any, event: Any, *, tx: Any, clock: Any) -> Any:
        if event.incarnation != self.incarnation:
            return []
        return await on_stop(self, event, tx=tx, clock=clock)

    change(worker_handlers.CommandHandlers, "on_stop_attempt", picky)


@planted
def a_former_leader_writes_on(change: Callable[..., None]) -> None:
    """The store does not ask whose turn it is: a scheduler that slept through a take-over goes on."""
    change(memory, "FENCE", ContextVar("nobody asks", default=None))


@dataclass(frozen=True, slots=True)
class Catch:
    """Which seed caught a mutation, and by which broken promise; None when none did."""

    name: str
    seed: int | None
    line: str
    seconds: float


@contextmanager
def mutated(name: str) -> Iterator[None]:
    """Plant one bug until the end of the block."""
    with ExitStack() as stack:
        MUTATIONS[name](stack)
        yield


def hunt(name: str, first: int = 1, most: int = 200) -> Catch:
    """Try seeds until one catches a mutation."""
    started = time.monotonic()
    with mutated(name):
        for seed in range(first, first + most):
            outcome = simulate.one((seed, 20, 4, simulate.lost_events(seed)))
            if outcome.broken:
                return Catch(name, seed, outcome.broken[0], time.monotonic() - started)
    return Catch(name, None, "", time.monotonic() - started)


def main() -> int:
    """Hunt every mutation, print what caught it, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--most", type=int, default=200, help="seeds to try")
    parser.add_argument("--only", nargs="+", choices=sorted(MUTATIONS), metavar="NAME")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="bugs at a time; as many as cores")
    options = parser.parse_args()
    names = options.only or list(MUTATIONS)
    with ProcessPoolExecutor(options.processes) as pool:
        catches = []
        for catch in pool.map(hunt, names, [1] * len(names), [options.most] * len(names)):
            catches.append(catch)
            caught = f"seed {catch.seed}" if catch.seed is not None else "NOT CAUGHT"
            sys.stdout.write(f"{catch.name:42} {caught:10} {catch.seconds:5.0f} s  {catch.line[:110]}\n")
            sys.stdout.flush()
    missed = [catch.name for catch in catches if catch.seed is None]
    sys.stdout.write(f"{len(catches) - len(missed)} of {len(catches)} caught\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
