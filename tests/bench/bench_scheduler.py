"""The scheduler's pass alone: `python -m tests.bench.bench_scheduler [FOLDER]`; plots go to the folder.

Decisions: one run ends or one task comes, and the pass places what follows; a full pass: everything is placed on
an empty cluster. Both in CPU time of the pass, and by the clock. Trace: the same pass over a simulated day, beside
first-come-first-served, and beside itself with the youngest run as the victim. Seeded.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from services.scheduler.domain.planning import plan
from services.scheduler.domain.plans import Plan
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.state import LIMIT, UNKNOWN, Run, State
from tests.bench.cluster_trace import HOUR, a_cluster, a_job, a_trace
from tests.bench.figures import say, spread
from tests.scheduling_simulation import Simulation, first_come_first_served

DECISIONS = 400


SEEDS, HOURS = 3, 24.0
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
    state.held, state.in_vain = found.held, found.in_vain
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


def trace(folder: Path | None, seed: int) -> None:
    """Measure useful GPU time, and what preemption loses, over days of clusters of three sizes."""
    for gpus in (64, 128, 256):
        played = [day(gpus, one) for one in range(seed, seed + SEEDS)]
        capacity = SEEDS * gpus * HOURS * HOUR
        first, second = (sum(one[which].useful(HOURS * HOUR) for one in played) for which in (PLAIN, OURS))
        say(f"{SEEDS} days of {gpus} GPUs, load 1.3: useful, first come first served", _share(first, capacity))
        gain = f"+30 %; it is {100 * (second / first - 1):+.0f} %"
        say("the same: useful, this scheduler", _share(second, capacity), gain)
        lost = [sum(told.lost for one in played for told in one[w].told.values()) / HOUR for w in (YOUNG, OURS)]
        gave = [sum(len(t.gave_way_to) for one in played for t in one[w].told.values()) for w in (YOUNG, OURS)]
        say("the same: GPU hours lost to giving way, youngest first", f"{lost[0]:.1f} by {gave[0]} runs")
        less = f"-60 %; it is {100 * (lost[1] / lost[0] - 1):+.0f} %" if lost[0] else ""
        say("the same: GPU hours lost to giving way, least lost work", f"{lost[1]:.1f} by {gave[1]} runs", less)
    if folder is not None:
        plot_day(folder, {name: played[0][name] for name in (PLAIN, OURS)}, gpus, HOURS * HOUR)


def day(gpus: int, seed: int) -> dict[str, Simulation]:
    """Play one day with each way of placing."""
    jobs, cluster, until = a_trace(seed, gpus, HOURS, 1.3), a_cluster(gpus // 8), HOURS * HOUR
    return {
        PLAIN: Simulation(cluster, jobs, planner=first_come_first_served, checked=False).run(until),
        OURS: Simulation(cluster, jobs, checked=False).run(until),
        YOUNG: Simulation(cluster, jobs, checked=False, youngest=True).run(until),
    }


def _share(useful: float, capacity: float) -> str:
    return f"{100 * useful / capacity:.1f} % of capacity"


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
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=("decisions", "trace"))
    options = parser.parse_args(sys.argv[1:])
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    if options.only != "trace":
        decisions(options.folder)
    if options.only != "decisions":
        trace(options.folder, options.seed)


if __name__ == "__main__":
    main()
