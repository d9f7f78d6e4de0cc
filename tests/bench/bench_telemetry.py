"""What watching costs: events through the wrapper and HTTP requests, with spans off, collected, and to a dead end.

    python tests/bench/bench_telemetry.py [events] [requests]

Each round measures all three one after the other; what is compared is the median over rounds of the ratio to the
same round's `off`. The collector runs in a process of its own, which shares the machine.
"""

import asyncio
import logging
import os
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx

from tests.bench.bench_wrapper import keep
from tests.bench.figures import bench, cpu_of, say
from tests.harness import API, ServiceProcess, services
from tests.runtime_kit import COLLECTIONS, record, task_event
from trainwright.contracts.base import iso
from trainwright.contracts.task import TaskReady
from trainwright.contracts.topics import TASK
from trainwright.runtime.apply import Inbound, apply
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.consumer import POLL_RECORDS
from trainwright.runtime.telemetry.tracing import TRACING
from trainwright.storage.sqlite import SqliteStore

ROUNDS = 5
COLLECT = """
import sys, threading
sys.path.insert(0, ".")
from tests.trace_collector import collecting
with collecting() as collector:
    print(collector.url, flush=True)
    sys.stdin.read()
"""


@contextmanager
def collector() -> Iterator[str]:
    """Give the address of a collector in a process of its own."""
    command = [sys.executable, "-c", COLLECT]
    root = Path(__file__).resolve().parents[2]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=root, text=True, **pipes) as process:  # type: ignore[call-overload]
        yield process.stdout.readline().strip()
        process.stdin.close()


@contextmanager
def dead_end() -> Iterator[str]:
    """Give an address that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as silent:
        yield f"http://127.0.0.1:{silent.getsockname()[1]}"


async def events_per_second(folder: Path, count: int, endpoint: str | None, name: str) -> float:
    """Apply records as the wrapper does, a transaction per poll."""
    now = {"ce_time": iso(datetime.now(UTC)).encode()}  # what is old is no part of its trace any more
    records = [record(task_event(n), offset=n, headers=now) for n in range(count)]
    store = SqliteStore(folder / f"{name}.db", COLLECTIONS)
    await store.open()
    inbound = Inbound("bench", TASK, {TaskReady: keep}, store, SystemClock())
    TRACING.start(endpoint)
    started = time.perf_counter()
    for at in range(0, count, POLL_RECORDS):
        await apply(records[at : at + POLL_RECORDS], inbound)
    took = time.perf_counter() - started
    TRACING.stop(within=2)
    await store.close()
    return count / took


async def requests_per_second(run: ServiceProcess, count: int) -> tuple[float, float]:
    """Return how many requests one service answers eight callers per second, and per second of its CPU."""
    limits = httpx.Limits(max_connections=8)
    headers = {"x-trainwright-internal": "internal-token-of-the-tests"}
    async with httpx.AsyncClient(base_url=run.url + API, headers=headers, limits=limits, timeout=60) as client:

        async def caller() -> None:
            for _ in range(count // 8):
                (await client.get("/tasks?limit=5")).raise_for_status()

        assert run._process is not None
        started, used = time.perf_counter(), cpu_of(run._process.pid)
        await asyncio.gather(*[caller() for _ in range(8)])
        took, used = time.perf_counter() - started, cpu_of(run._process.pid) - used
        return count / took, count / used


def turned(ways: Iterable[str], by: int) -> list[str]:
    """Return the ways, another one first each time."""
    found = list(ways)
    return found[by % len(found) :] + found[: by % len(found)]


def told(what: str, rates: dict[str, list[float]]) -> None:
    """Print the median rate with spans off, and the others as its ratio."""
    say(f"{what}, spans off", f"{statistics.median(rates['off']):>9,.0f} /s")
    for way in ("collected", "dead end"):
        ratios = [rate / off for rate, off in zip(rates[way], rates["off"], strict=True)]
        say(f"{what}, {way}: of that", f"{statistics.median(ratios):>11.2f}")


async def main(events: int, requests: int) -> None:
    """Measure both."""
    logging.getLogger("trainwright").setLevel(logging.ERROR)  # that spans are lost is what is measured
    os.environ["TRAINWRIGHT_STATIC_MEMBERS"] = "false"  # three of one service, which would push each other out
    os.environ["OTEL_BSP_SCHEDULE_DELAY"] = "1000"
    with bench() as (broker, folder), collector() as alive, dead_end() as dead:
        ways = {"off": None, "collected": alive, "dead end": dead}
        rates: dict[str, list[float]] = {way: [] for way in ways}
        await events_per_second(folder, events // 4, None, "warm")
        for number in range(ROUNDS):
            for way in turned(ways, number):
                endpoint = ways[way]
                rates[way].append(await events_per_second(folder, events, endpoint, f"{number}-{way}"))
        told("events applied", rates)
        rates = {way: [] for way in ways}
        per_cpu: dict[str, list[float]] = {way: [] for way in ways}
        homes = {way: folder / way for way in ways}
        for home in homes.values():
            home.mkdir()
        envs = {
            way: {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint} if endpoint else {} for way, endpoint in ways.items()
        }
        with (
            services(["task"], broker.bootstrap, homes["off"], **envs["off"]) as off,
            services(["task"], broker.bootstrap, homes["collected"], **envs["collected"]) as on,
            services(["task"], broker.bootstrap, homes["dead end"], **envs["dead end"]) as dead_run,
        ):
            runs = {"off": off, "collected": on, "dead end": dead_run}
            for run in runs.values():
                await run.ready()
                await requests_per_second(run, requests // 4)
            for number in range(ROUNDS):
                for way in turned(runs, number):
                    by_clock, by_cpu = await requests_per_second(runs[way], requests)
                    rates[way].append(by_clock)
                    per_cpu[way].append(by_cpu)
        told("GET /tasks", rates)
        told("GET /tasks per second of the service's CPU", per_cpu)


if __name__ == "__main__":
    numbers = [int(word) for word in sys.argv[1:]]
    asyncio.run(main(*(numbers + [10_000, 1000][len(numbers) :])))
