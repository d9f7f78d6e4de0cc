"""What 100 listeners to all public events cost: one reader for all of them in the gateway, or a Kafka client each.

    python -m tests.bench.bench_events [--listeners 100] [--rate 20] [--seconds 10]

Events go to Kafka as services send them; listeners of `/events` are a process of their own, and so is the peer: as
many consumers without a group as there are listeners. Both note how old each event is when it comes.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer

from services.gateway.stream.events import QUIET
from tests.bench.figures import bench, cpu_of, say, spread
from tests.events_desk import desk, parsed
from tests.harness import API, Bus, eventually, listening
from tests.runtime_kit import task_event
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings

ROOT = Path(__file__).resolve().parents[2]


def ready() -> None:
    """Say that one more listens."""
    sys.stdout.write("ready\n")
    sys.stdout.flush()


async def over_http(url: str, key: str, waits: list[float]) -> None:
    """Listen as one of many."""
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        httpx.AsyncClient(timeout=60, headers=headers) as client,
        client.stream("GET", f"{url}{API}/events") as answer,
    ):
        begun = False
        async for event in parsed(answer.aiter_lines()):
            now = time.perf_counter()
            if event.name:
                waits.append(now - float(event.data["data"]["task"]["name"]))
            elif not begun:
                ready()
                begun = True


async def from_kafka(bootstrap: str, waits: list[float]) -> None:
    """Listen with a Kafka client of one's own."""
    async with AIOKafkaConsumer(*QUIET, bootstrap_servers=bootstrap, fetch_max_wait_ms=50) as consumer:
        await consumer.end_offsets(list(consumer.assignment()))
        ready()
        async for record in consumer:
            waits.append(time.perf_counter() - float(json.loads(record.value)["task"]["name"]))


async def listen(options: argparse.Namespace) -> None:
    """Listen with all of them for some seconds; print what they saw."""
    waits: list[float] = []
    place, key = options.listen, options.key
    tasks = [
        asyncio.create_task(over_http(place, key, waits) if key else from_kafka(place, waits))
        for _ in range(options.listeners)
    ]
    await asyncio.wait(tasks, timeout=options.seconds)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    sys.stdout.write(json.dumps(waits) + "\n")


@asynccontextmanager
async def listeners(place: str, key: str, options: argparse.Namespace) -> AsyncIterator[subprocess.Popen[str]]:
    """Start the listeners' process; they listen once the block begins."""
    words = ["--listen", place, "--key", key, "--listeners", str(options.listeners)]
    words += ["--seconds", str(options.seconds + 20)]
    command = [sys.executable, "-m", "tests.bench.bench_events", *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: ASYNC220
        assert process.stdout is not None
        for _ in range(options.listeners):
            await asyncio.to_thread(process.stdout.readline)
        yield process


def memory_of(pid: int) -> float:
    """Return a process's own memory in MiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


async def send(bus: Bus, options: argparse.Namespace) -> None:
    """Say something at the rate; each event carries when that was."""
    begun = time.perf_counter()
    for number in range(int(options.rate * options.seconds)):
        bus.background(bus.say(task_event(number % 7, number + 1, name=repr(time.perf_counter()))))
        await asyncio.sleep(max(0.0, begun + (number + 1) / options.rate - time.perf_counter()))


async def measure(
    what: str, place: str, key: str, pid: int | None, broker: int, bus: Bus, options: argparse.Namespace
) -> None:
    """Measure one way of listening; ``pid`` is who does the work, the listeners' own process if None."""
    begun = time.monotonic()
    async with listeners(place, key, options) as process:
        joined = time.monotonic() - begun
        pids = [pid or process.pid, broker]
        before, begun = [cpu_of(each) for each in pids], time.monotonic()
        await send(bus, options)
        took = time.monotonic() - begun
        used, brokers = (100 * (cpu_of(each) - cpu) / took for each, cpu in zip(pids, before, strict=True))
        memory = memory_of(pids[0])
        assert process.stdout is not None
        waits = json.loads((await asyncio.to_thread(process.stdout.readlines))[-1])
    say(what, spread(waits))
    lines = f"{len(waits):,} events; all there after {joined:.1f} s; {memory:.0f} MiB"
    say("", f"{lines}; {used:.0f} % of a core, the broker {brokers:.0f} %")


async def run(folder: Path, bootstrap: str, broker: int, options: argparse.Namespace) -> None:
    """Measure both."""
    await Kafka(RuntimeSettings(kafka=bootstrap)).ensure_topics()
    with desk(bootstrap, folder) as gateway:
        await eventually(lambda: answers(gateway.process.url), within=60, what="the gateway")
        async with listening(bootstrap) as bus:
            door, key = gateway.process, gateway.key
            await measure("one reader in the gateway, HTTP", door.url, key, door.pid, broker, bus, options)
            await measure("peer: a Kafka client each", bootstrap, "", None, broker, bus, options)


async def answers(url: str) -> bool:
    """Return whether the gateway is there."""
    try:
        async with httpx.AsyncClient() as client:
            return (await client.get(f"{url}/health/live")).status_code == 200
    except httpx.HTTPError:
        return False


def main(options: argparse.Namespace) -> None:
    """Measure."""
    say(f"{options.listeners} listeners, {options.rate:g} events a second, {options.seconds:g} s", "")
    with bench() as (broker, folder):
        assert broker.pid is not None
        asyncio.run(run(folder / "gateway", broker.bootstrap, broker.pid, options))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--listeners", type=int, default=100)
    parser.add_argument("--rate", type=float, default=20)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--listen", help=argparse.SUPPRESS)
    parser.add_argument("--key", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.listen:
        asyncio.run(listen(given))
    else:
        main(given)
