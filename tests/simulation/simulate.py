"""Simulate the control plane under faults, seed by seed: `python -m tests.simulation.simulate --seeds 1000`.

The real task service and scheduler, their consumers and relays, and workers around their real command handlers, in
one thread on a virtual clock. A seed decides everything; the same seed replays exactly.
"""

import argparse
import asyncio
import gc
import logging
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any
from unittest.mock import patch

from pydantic import BaseModel

from services.scheduler import service as scheduler_service
from services.task import handlers
from services.task import service as task_service
from tests.simulation.bus import SimLog
from tests.simulation.checker import Installation, Wishes, broken, fingerprint, replayed
from tests.simulation.programs import SimService, asked
from tests.simulation.witness import Witness
from tests.simulation.workers import Plan, SimWorker
from tests.simulation.world import Chaos, Stuck, VirtualLoop, World
from trainwright.contracts.base import Contract
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.task import FINAL, TaskDocument, TaskStatus
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime import apply, consumer
from trainwright.runtime.telemetry import figures

SETTLE_SECONDS = 240.0
"""Virtual seconds after the healing by which everything has to be over,"""
SETTLED_TASKS = 20
"""if there are no more tasks than that; more take longer, for there are not more workers."""
LEFT_OUT_SECONDS = 1800.0
FAILURES = (
    FailureClass.UNKNOWN,
    FailureClass.UNKNOWN,
    FailureClass.USER_ERROR,
    FailureClass.NODE_BAD,
    FailureClass.HUNG,
    FailureClass.DATA_ERROR,
)
EVERY = (0.0, 0.05, 0.1, 0.3)
"""Seconds between the moments at which a broker takes records in: the longer, the more of them make a turn."""
WORKERS = (1, 1, 1, 1, 1, 2, 3)
REQUESTS = {"pause": handlers.pause_task, "resume": handlers.resume_task, "cancel": handlers.cancel_task}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one seed."""

    seed: int
    broken: list[str]
    fingerprint: str
    events: int
    happened: dict[str, int] = field(default_factory=dict)
    ends: dict[str, int] = field(default_factory=dict)
    cpu_seconds: float = 0.0


def simulate(seed: int, *, tasks: int = 20, workers: int = 4, chaos: Chaos | None = None) -> Outcome:
    """Run one seed to its end and check it."""
    loop = VirtualLoop()
    loop.set_exception_handler(lambda *_: None)  # programs are killed in the middle of everything
    asyncio.set_event_loop(loop)
    world = World(seed, loop, chaos or Chaos.drawn(seed, 0))
    try:
        return loop.run_until_complete(_play(world, tasks, workers))
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        asyncio.set_event_loop(None)


async def _play(world: World, tasks: int, workers: int) -> Outcome:
    log = SimLog(world, world.random.choice((1, 1, 3)), world.random.choice(EVERY))
    plans, wishes = dict[str, Plan](), Wishes()
    task = SimService(world, log, "task", task_service.build_service)
    schedulers = [SimService(world, log, "scheduler", scheduler_service.build_service)]
    if world.random.random() < 0.5:
        schedulers.append(
            SimService(world, log, "scheduler", scheduler_service.build_service, beside=schedulers[0])
        )
    machines = [
        SimWorker(world, log, f"worker-{n}", world.random.choice((1, 2, 4)), plans) for n in range(workers)
    ]
    witness = Witness(log, schedulers, machines)
    world.on_commit, log.on_position = witness.on_commit, witness.on_position
    found = Installation(log, task, schedulers, machines, wishes, witness)
    for program in world.programs:
        program.start()
    world.background(log.storm())
    submitting = world.background(_submit(world, task, plans, wishes, tasks))
    await world.storm()
    await submitting
    settled = world.now + SETTLE_SECONDS * max(1.0, tasks / SETTLED_TASKS)
    while world.now < settled + _left_out(found) and not _is_over(found):  # noqa: ASYNC110 - of virtual time
        await asyncio.sleep(1)
    await asyncio.sleep(5)
    lines = await _calm(found, plans)
    for _ in range(20):  # workers register now and then
        if any(program.state.pending for program in found.stores):
            await asyncio.sleep(0.5)
    lines += await replayed(found)
    ends = Counter(str(one.value["status"]) for one in task.state.documents["tasks"].values() if one is not None)
    said = sum(len(records) for partitions in log.records.values() for records in partitions)
    return Outcome(world.seed, [*broken(found), *lines], fingerprint(found), said, world.happened, dict(ends))


async def _submit(world: World, task: SimService, plans: dict[str, Plan], wishes: Wishes, count: int) -> None:
    """Submit tasks over the first half of the storm; some are paused, resumed, cancelled meanwhile."""
    rng, meddling = world.random, []
    for number in range(count):
        await asyncio.sleep(rng.expovariate(count / (world.chaos.until / 2)))
        config = TaskConfig(
            recipe="script",
            name=f"t{number}",
            parameters={"path": "x.py"},
            resource_requirements={"cpu": rng.choice((0.5, 1)), "memory": 0, "workers": rng.choice(WORKERS)},
            priority=rng.choice((0, 0, 1)),
            max_retries=rng.choice((0, 1, 3)),
            on_unreachable=rng.choice(("replace", "replace", "replace", "wait")),
        )
        plan = Plan(rng.randint(5, 30), rng.choice((0.2, 0.5, 1.0)), _failures(world))
        made: TaskDocument | None = await asked(task, partial(_create, plans, plan, config))
        if made is None:
            continue
        wishes.accepted.add(made.task_id)
        if rng.random() < 0.4:
            meddling.append(world.background(_meddle(world, task, made.task_id, wishes)))
    for job in meddling:
        await job


async def _calm(found: Installation, plans: dict[str, Plan]) -> list[str]:
    """When nothing goes wrong any more, a wish is met at once; that an agent is started anew is no excuse."""
    world, task = found.task.world, found.task
    plan, broken_here = Plan(10_000, 0.5, {}), list[str]()
    made = await asked(
        task, partial(_create, plans, plan, TaskConfig(recipe="script", parameters={"path": "x.py"}))
    )

    async def comes_to(status: TaskStatus, within: float, after: str) -> bool:
        until = world.now + within
        while world.now < until:
            if task.state.documents["tasks"][made.task_id].value["status"] == status:  # type: ignore[union-attr]
                return True
            await asyncio.sleep(0.5)
        broken_here.append(f"calm: {made.task_id} is not {status} {within:g} s after {after}")
        return False

    if await comes_to(TaskStatus.RUNNING, 60, "it was submitted"):
        await asyncio.sleep(1)
        for worker in found.workers:
            worker.kill()
        await asked(task, partial(handlers.pause_task, made.task_id, actor="sim"))
        if await comes_to(TaskStatus.PAUSED, 40, "it was paused"):
            await asked(task, partial(handlers.resume_task, made.task_id, actor="sim"))
            await comes_to(TaskStatus.RUNNING, 40, "it was resumed")
    await asked(task, partial(handlers.cancel_task, made.task_id, actor="sim"))
    await comes_to(TaskStatus.CANCELLED, 40, "it was cancelled")
    found.wishes.last[made.task_id] = "cancel"
    await asyncio.sleep(10)
    return broken_here


async def _create(plans: dict[str, Plan], plan: Plan, config: TaskConfig, *, tx: Any, clock: Any) -> Any:
    made, events = await handlers.create_task(config, run=True, actor="sim", tx=tx, clock=clock)
    plans[made.task_id] = plan
    return made, events


def _failures(world: World) -> dict[int, FailureClass]:
    rng = world.random
    return {attempt: rng.choice(FAILURES) for attempt in range(1, 6) if rng.random() < 0.25}


async def _meddle(world: World, task: SimService, task_id: str, wishes: Wishes) -> None:
    """Pause, resume and cancel a task at odd moments."""
    rng = world.random
    for _ in range(rng.randint(1, 4)):
        await asyncio.sleep(rng.expovariate(1 / 3))
        wish = rng.choice(("pause", "pause", "resume", "resume", "cancel"))
        if await asked(task, partial(REQUESTS[wish], task_id, actor="sim")) is not None:
            wishes.last[task_id] = wish
            if wish == "cancel":
                return


def _left_out(found: Installation) -> float:
    """Return how much longer tasks may have to wait: for a worker that is left out for its own fault."""
    workers = found.scheduler.state.documents["workers"].values()
    return LEFT_OUT_SECONDS if any(one is not None and one.value["cordon"] for one in workers) else 0.0


def _is_over(found: Installation) -> bool:
    """Return whether nobody is away any more, and every task is where it is to be."""
    world = found.task.world
    if world.now < max(found.log.back_at, *(program.well_since for program in world.programs)):
        return False
    for id, one in found.task.state.documents["tasks"].items():
        status = one.value["status"] if one is not None else None
        parked = status == TaskStatus.PAUSED and found.wishes.last.get(id) == "pause"
        if status not in FINAL and not parked:
            return False
    return True


def one(arguments: tuple[int, int, int, int]) -> Outcome:
    """Simulate one seed, with so many tasks, workers and lost events, in a process made quiet for it."""
    seed, tasks, workers, lost = arguments
    began = time.process_time()
    with _quietly():
        try:
            found = simulate(seed, tasks=tasks, workers=workers, chaos=Chaos.drawn(seed, lost))
        except Stuck:
            found = Outcome(seed, ["stuck: nothing is left that could ever happen"], "", 0)
    return replace(found, cpu_seconds=time.process_time() - began)


@contextmanager
def _quietly() -> Iterator[None]:
    """Do without logs, figures and routes that nobody asks for, and idle consumers that wake each virtual second.

    What several read, a record or a stored document, is decoded and validated once: nobody writes into it.
    """
    disabled, collects = logging.root.manager.disable, gc.isenabled()
    logging.disable(logging.CRITICAL)
    gc.disable()  # a seed is small, and over soon
    try:
        with (
            patch.object(consumer, "POLL_MS", 20_000),
            patch.object(figures, "_counter", _no_figure),
            patch.object(figures, "_histogram", _no_figure),
            patch.object(apply, "_kind_of", ONCE(apply._kind_of)),
            patch.object(apply, "_read", ONCE(apply._read)),
            patch.object(Contract, "model_validate", classmethod(ONCE(_validated))),
            patch.object(task_service, "build_router", _no_routes),
            patch.object(scheduler_service, "build_router", _no_routes),
        ):
            yield
    finally:
        logging.disable(disabled)
        if collects:
            gc.enable()
        gc.collect(1)


class _Nothing:
    """A counter and a histogram that nobody reads."""

    def inc(self, by: float) -> None:
        """Forget it."""

    def observe(self, value: float) -> None:
        """Forget it."""


_NOTHING = _Nothing()


def _no_figure(*_: Any) -> _Nothing:
    return _NOTHING


def _validated(kind: type[Contract], found: Any) -> Contract:
    return BaseModel.model_validate.__func__(kind, found)  # type: ignore[attr-defined, no-any-return]


def once(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that makes something of the same objects only once; it keeps them for that."""
    made: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def remembered(*arguments: Any) -> Any:
        key = tuple(map(id, arguments))
        if key not in made:
            made[key] = arguments, make(*arguments)
        return made[key][1]

    return remembered


ONCE = once


def _no_routes(*_: Any) -> None:
    """Build none: building them took a third of the time."""


def lost_events(seed: int) -> int:
    """Return how many events a seed loses for good: two of three lose some."""
    return seed % 3 * 3


def campaign(seeds: Sequence[int], tasks: int, workers: int, processes: int) -> list[Outcome]:
    """Simulate many seeds."""
    jobs = [(seed, tasks, workers, lost_events(seed)) for seed in seeds]
    if processes == 1:
        return [one(job) for job in jobs]
    with ProcessPoolExecutor(processes) as pool:
        return list(pool.map(one, jobs, chunksize=max(1, len(jobs) // (processes * 8))))


def main() -> int:
    """Run the campaign, print what was injected and what was broken, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="seeds at a time; as many as cores")
    options = parser.parse_args()
    started = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    outcomes = campaign(seeds, options.tasks, options.workers, options.processes)
    seconds = time.monotonic() - started
    happened, ends = Counter[str](), Counter[str]()
    for outcome in outcomes:
        happened.update(outcome.happened)
        ends.update(outcome.ends)
        for line in outcome.broken:
            sys.stdout.write(f"seed {outcome.seed}: {line}\n")
    bad = [outcome.seed for outcome in outcomes if outcome.broken]
    sys.stdout.write(f"injected: {dict(happened.most_common())}\nends: {dict(ends)}\n")
    used = sum(outcome.cpu_seconds for outcome in outcomes)
    sys.stdout.write(
        f"{len(outcomes)} seeds, {sum(outcome.events for outcome in outcomes)} events, {seconds:.0f} s, "
        f"{used / len(outcomes):.2f} s of one core a seed; broken: {len(bad)} {bad[:20]}\n"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
