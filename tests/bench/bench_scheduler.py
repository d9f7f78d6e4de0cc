"""The scheduler's pass alone: `python -m tests.bench.bench_scheduler [FOLDER]`; plots go to the folder.

Decisions: one run ends or one task comes, and the pass places what follows; a full pass: everything is placed on
an empty cluster. Both in CPU time of the pass, and by the clock.

Trace: the same pass over simulated days of a cluster (``cluster_trace.py`` says after which traces), beside

- first come, first served: strict order of arrival; all wait behind the first that does not fit. No priorities, no
  preemption, nothing thrown away; it packs workers as we do.
- youngest first: this scheduler, but those give way at once who have run for the shortest time, asked to save too.

Useful GPU time: steps of jobs that do not fail, each step counted once, as a share of all GPUs. So starting (30 s
each time), what was lost by giving way, failed jobs, and places that stand empty for a large job are not useful.
The bound is what nobody could surpass (``cluster_trace.bound``). Lost: GPU time of a run that gave its place up
which was not kept: since its last checkpoint, while it saved, while it started. Waiting: of urgent jobs (priority
5, one in ten) and of those of priority 0 (six in ten) until their first start.

Seeded: `--only trace --seed 101` plays other days than those that anything was chosen by. A row is what its days
have together. After a figure stands its standard error, each seed left out once (jackknife): days of one seed on
clusters of several sizes have jobs in common.
"""

import argparse
import math
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from services.scheduler.domain.planning import plan
from services.scheduler.domain.plans import Plan
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import LIMIT, UNKNOWN, Policy, Run, State
from tests.bench.cluster_trace import HOUR, a_cluster, a_job, a_trace, bound
from tests.bench.figures import say, spread
from tests.scheduling_simulation import Planner, Simulation, first_come_first_served

DECISIONS = 400
HOURS, STARTING = 24.0, 30.0
GPU_DAYS = 768
"""Of each row: a day of a small cluster alone says little, for a few runs lose most."""
SIZES, LOADS = (64, 128, 256), (0.9, 1.1, 1.3)
URGENT, DEFAULT = 5, 0
PLAIN, OURS, YOUNG = "first come, first served", "this scheduler", "youngest first"


def a_state(waiting: int, seed: int) -> State:
    """Return 125 workers with eight GPUs each, and so many waiting tasks of 1 to 64 GPUs."""
    rng, state = random.Random(seed), State()
    for host in a_cluster(125):
        state.pool.set(host, host.all)
    for number in range(waiting):
        job = a_job(rng, number)
        state.put(
            Waiting(job.name, job.needs, job.priority, -rng.random() * 1e5, job.strategy, limit=job.limit), 0.0
        )
    return state


def take(state: State, found: Plan, now: float) -> None:
    """Do what a plan says."""
    state.held, state.in_vain, state.kept = found.held, found.in_vain, found.kept
    state.put_off = found.put_off
    for clearing in found.clearings:
        for victim in clearing.victims:
            run = state.drop_run(victim, now)
            assert run is not None
            state.add_run(replace(run, gives_way_to=clearing.task_id), now)
    for seat in found.seats:
        waiting = state.queue.waiting[seat.task_id]
        state.queue.drop(seat.task_id)
        ends = UNKNOWN if waiting.limit is None else now + waiting.limit
        run = Run(
            seat.task_id,
            1,
            waiting.needs,
            seat.parts,
            priority=waiting.priority,
            strategy=waiting.strategy,
            since=now,
            ends=ends,
            basis=LIMIT,
        )
        state.add_run(run, now)
    state.queue.explain(found.reasons)


def timed(call: Callable[[], Plan]) -> tuple[float, Plan]:
    """Return the CPU seconds of a call, and its answer."""
    started = time.thread_time()
    found = call()
    return time.thread_time() - started, found


def measure(waiting: int) -> tuple[float, list[float], list[float]]:
    """Return the CPU seconds of a full pass and of each decision after it, and those by the clock."""
    state, rng = a_state(waiting, 1), random.Random(2)
    full, found = timed(lambda: plan(state, 0.0, limit=10**6))
    take(state, found, 0.0)
    used, waits, stopping = list[float](), list[float](), list[str]()
    for number in range(DECISIONS):
        now = float(number)
        started, cpu = time.perf_counter(), time.thread_time()
        if number % 2:  # one that was asked to give way, if there is one
            state.drop_run(stopping.pop(0) if stopping else rng.choice(list(state.runs)), now)
        else:
            job = a_job(rng, 10**6 + number)
            state.put(Waiting(job.name, job.needs, job.priority, now, job.strategy, limit=job.limit), now)
        found = plan(state, now)
        waits.append(time.perf_counter() - started)
        used.append(time.thread_time() - cpu)
        take(state, found, now)
        stopping += [victim for clearing in found.clearings for victim in clearing.victims]
    return full, used, waits


def decisions(folder: Path | None) -> None:
    """Measure passes at growing queues."""
    sizes, p99s, fulls = (1_000, 10_000, 100_000), list[float](), list[float]()
    for waiting in sizes:
        full, used, waits = measure(waiting)
        fulls.append(full)
        p99s.append(statistics.quantiles(used, n=100)[98])
        goal = "p99 1 ms, at most 5" if waiting == 10_000 else ""
        say(f"a decision, {waiting:,} wait for 1,000 GPUs: CPU time", spread(used), goal)
        say("the same by the clock", spread(waits))
        say(
            f"a full pass, {waiting:,} wait: CPU time",
            f"{1e3 * full:.1f} ms",
            "100 ms, at most 500" if goal else "",
        )
    if folder is not None:
        plot_slope(folder, sizes, p99s, fulls)


@dataclass(frozen=True)
class Outcome:
    """What came of a day: GPU hours, runs that gave way, and seconds that jobs of a priority waited."""

    useful: float
    lost: float
    gave_way: int
    waited: Mapping[int, Sequence[float]]


@dataclass(frozen=True)
class Day:
    """A day that was played with each way of placing, and the GPU hours that nobody could surpass."""

    seed: int
    gpus: int
    most: float
    by: Mapping[str, Outcome]


def day(gpus: int, seed: int, load: float) -> dict[str, Simulation]:
    """Play one day with each way of placing."""
    jobs, cluster, until = a_trace(seed, gpus, HOURS, load), a_cluster(gpus // 8), HOURS * HOUR

    def play(*, planner: Planner = plan, youngest: bool = False) -> Simulation:
        return Simulation(
            cluster,
            jobs,
            planner=planner,
            policy=Policy(forbearance=0) if youngest else None,
            youngest=youngest,
            starting=STARTING,
            checked=False,
        ).run(until)

    return {
        PLAIN: play(planner=first_come_first_served),
        OURS: play(),
        YOUNG: play(youngest=True),
    }


def told_by(played: Simulation) -> Outcome:
    """Return what came of a day; one that has not started by its end has waited until then."""
    until, told = HOURS * HOUR, played.told
    waited: dict[int, list[float]] = {URGENT: [], DEFAULT: []}
    for job in played.jobs.values():
        waited.setdefault(job.priority, []).append((told[job.name].started or [until])[0] - job.arrives)
    return Outcome(
        played.useful(until) / HOUR,
        sum(one.lost for one in told.values()) / HOUR,
        sum(len(one.gave_way_to) for one in told.values()),
        waited,
    )


def trace(folder: Path | None, seed: int, sizes: Sequence[int], gpu_days: int) -> None:
    """Measure useful GPU time, and what preemption loses, over days of clusters of each size, at each load."""
    sys.stdout.write(TABLE.format(gpu_days=gpu_days, seed=seed))
    all_ = list[Day]()
    for gpus in sizes:
        for load in LOADS:
            days = list[Day]()
            for each in range(seed, seed + max(1, gpu_days // gpus)):
                most = bound(a_trace(each, gpus, HOURS, load), gpus, HOURS) / HOUR
                outcomes = {name: told_by(one) for name, one in day(gpus, each, load).items()}
                days.append(Day(each, gpus, most, outcomes))
            sys.stdout.write(row(f"{gpus}", f"{load}", days))
            sys.stdout.flush()
            all_ += days
    sys.stdout.write(row("all", "", all_))
    if folder is not None:
        played = day(SIZES[0], seed, LOADS[-1])
        plot_day(folder, {name: played[name] for name in (PLAIN, OURS)}, SIZES[0], HOURS * HOUR)


TABLE = """
{gpu_days} GPU days a row, from seed {seed} on. Goals: +30 % useful, -60 % lost. y.: youngest first.
Waits of urgent jobs: mean / p95 / p99; of priority 0: mean.

| GPUs | load | bound | first | ours | gain | most | lost, y. | ours | less | waits, y. | ours | 0, y. | ours |
|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|
"""


def row(gpus: str, load: str, days: Sequence[Day]) -> str:
    """Return a row of the table: the same days, each way of placing."""
    all_, most = HOURS * sum(one.gpus for one in days), sum(one.most for one in days)
    first, ours = (sum(one.by[name].useful for one in days) for name in (PLAIN, OURS))
    lost = {name: sum(one.by[name].lost for one in days) for name in (YOUNG, OURS)}
    gave = {name: sum(one.by[name].gave_way for one in days) for name in lost}

    def waited(name: str, priority: int) -> list[float]:
        return [wait for one in days for wait in one.by[name].waited[priority]]

    cells = [
        gpus,
        load,
        *(f"{100 * share / all_:.1f} %" for share in (most, first, ours)),
        _with_error(days, lambda some: _change(some, lambda one: one.useful, PLAIN)),
        f"{100 * (most / first - 1):+.0f} %",
        *(f"{lost[name]:.0f} h by {gave[name]}" for name in lost),
        _with_error(days, lambda some: _change(some, lambda one: one.lost, YOUNG)),
        *(_waits(waited(name, URGENT)) for name in lost),
        *(f"{statistics.fmean(waited(name, DEFAULT)):.0f} s" for name in lost),
    ]
    return f"| {' | '.join(cells)} |\n"


def _change(days: Sequence[Day], of: Callable[[Outcome], float], beside: str) -> float:
    """Return by how many percent we have more of something over some days than another way of placing."""
    other = sum(of(one.by[beside]) for one in days)
    return 100 * (sum(of(one.by[OURS]) for one in days) / other - 1) if other else math.nan


def _with_error(days: Sequence[Day], figure: Callable[[Sequence[Day]], float]) -> str:
    """Return a figure of days in percent, with its standard error: each seed left out once (jackknife)."""
    seeds = {one.seed for one in days}
    if len(seeds) < 2:
        return f"{figure(days):+.0f} %"
    without = [figure([one for one in days if one.seed != seed]) for seed in seeds]
    error = math.sqrt((len(seeds) - 1) * statistics.pvariance(without))
    return f"{figure(days):+.0f} ± {error:.0f} %"


def _waits(waited: Sequence[float]) -> str:
    parts = statistics.quantiles(waited, n=100)
    return f"{statistics.fmean(waited):.0f} / {parts[94]:.0f} / {parts[98]:.0f} s"


def plot_slope(folder: Path, sizes: tuple[int, ...], p99s: list[float], fulls: list[float]) -> None:
    """Draw how passes grow with the queue."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.subplots()
    axes.loglog(sizes, [1e3 * one for one in p99s], "o-", label="a decision, p99")
    axes.loglog(sizes, [1e3 * one for one in fulls], "s-", label="a full pass")
    axes.set(xlabel="tasks that wait", ylabel="ms", title="125 workers with 8 GPUs, tasks of 1 to 64")
    axes.legend()
    figure.savefig(folder / "scheduler_slope.png", dpi=120)


def plot_day(folder: Path, played: dict[str, Simulation], gpus: int, until: float) -> None:
    """Draw how many GPUs were at work over the day."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4))
    axes = figure.subplots()
    for name, one in played.items():
        hours, busy = zip(*((at / HOUR, count) for at, count in one.busy_gpus), strict=True)
        axes.step(hours, busy, where="post", label=name)
    axes.axhline(gpus, color="grey", linewidth=0.5)
    axes.set(xlabel="hours", ylabel="GPUs at work", xlim=(0, until / HOUR))
    axes.legend()
    figure.savefig(folder / "scheduler_day.png", dpi=120)


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, help="where plots go")
    parser.add_argument("--seed", type=int, default=1, help="of the first day of each row")
    parser.add_argument("--gpu-days", type=int, default=GPU_DAYS, help="of each row")
    parser.add_argument("--only", choices=("decisions", "trace"))
    parser.add_argument("--gpus", type=int, nargs="*", default=SIZES, help="sizes of clusters")
    options = parser.parse_args(sys.argv[1:])
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    if options.only != "trace":
        decisions(options.folder)
    if options.only != "decisions":
        trace(options.folder, options.seed, options.gpus, options.gpu_days)


if __name__ == "__main__":
    main()
