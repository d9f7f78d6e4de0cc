"""Many tasks on one control plane: commands, placements, a burst of tasks that do nothing, thousands at once.

    python -m tests.bench.bench_many_tasks [tasks] [--only idle,queued,burst,active]

All services are one process on SQLite and a real Kafka; the workers (`tests.bench.hands`) speak the protocol and
start no process, so that the control plane is what is measured. Floors in the same run: an fsync of the same disk,
a record through the bare broker, a question that the gateway answers by itself. Workers and callers take their
share of the machine's cores: how much is told beside the figures.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from tests.bench.bench_post import fsyncs
from tests.bench.figures import bench, cpu_of, rate, say, spread
from tests.harness import API, ServiceProcess, eventually, services

NAMES = ("task", "scheduler", "monitor", "result", "log", "gateway")
KEY = "a-key-of-the-benches-0123456789"
CALLERS = 32


class Place:
    """One control plane, asked through its gateway."""

    def __init__(self, api: httpx.AsyncClient, plane: ServiceProcess, kafka: str, folder: Path) -> None:
        self.api = api
        self.plane = plane
        self.kafka = kafka
        self.folder = folder
        self.workers = 0
        """The process of the workers."""
        self.config: dict[str, object] = {}

    async def upload(self) -> None:
        """Upload the script that all tasks name, as clients do."""
        answer = await self.api.post("/files", content=b"")
        file = {"path": "none.py", **answer.raise_for_status().json()}
        self.config = {"recipe": "script", "name": "none", "parameters": {"path": "none.py"}, "files": [file]}

    async def submit(self) -> str:
        """Submit one task that may start."""
        answer = await self.api.post("/tasks", json={"config": self.config, "start": True})
        return str(answer.raise_for_status().json()["task_id"])

    async def submit_many(self, count: int) -> list[str]:
        """Submit tasks, some at a time."""
        places = asyncio.Semaphore(CALLERS)

        async def one() -> str:
            async with places:
                return await self.submit()

        return list(await asyncio.gather(*[one() for _ in range(count)]))

    async def in_status(self, status: str) -> int:
        """Return how many tasks are in a status."""
        answer = await self.api.get("/tasks", params={"status": status, "limit": 1})
        return int(answer.raise_for_status().json()["total"])

    async def until(self, status: str, count: int) -> None:
        """Wait until so many tasks are in a status."""

        async def there() -> bool:
            return await self.in_status(status) >= count

        await eventually(there, within=600, what=f"{count} tasks to be {status}", every=0.2)

    @contextmanager
    def hands(self, *more: str) -> Iterator[Callable[[], dict[str, float]]]:
        """Run a pool of workers; what is given returns when each task's command was read there."""
        path = self.folder / f"hands-{random.randrange(10**9)}"
        command = [sys.executable, "-m", "tests.bench.hands", self.kafka, *more]
        with path.open("wb") as output:
            process = subprocess.Popen(command, stdout=output)
        self.workers = process.pid

        def read() -> dict[str, float]:
            words = [line.split() for line in path.read_text().splitlines()]
            return {task_id: float(when) for task_id, when in words}

        try:
            yield read
        finally:
            process.terminate()
            process.wait()


def a_folder(folder: Path, name: str) -> Path:
    """Make a folder for one measurement."""
    (folder / name).mkdir()
    return folder / name


@asynccontextmanager
async def place(store: Path, kafka: str) -> AsyncIterator[Place]:
    """Start a control plane on a broker."""
    (store / "api-key").write_text(KEY)
    with services(NAMES, kafka, store, TRAINWRIGHT_ADMIN_KEY_FILE=str(store / "api-key")) as plane:
        await plane.ready()
        limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
        async with httpx.AsyncClient(
            base_url=plane.url + API, headers={"authorization": f"Bearer {KEY}"}, limits=limits, timeout=60
        ) as api:
            here = Place(api, plane, kafka, store)
            await here.upload()
            yield here


async def legs(kafka: str, count: int) -> list[float]:
    """Return how long a record takes through the bare broker, one at a time."""
    waits, topic, admin = [], "floor", AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=kafka, acks="all") as producer:
        await producer.send_and_wait(topic, b"first")
        async with AIOKafkaConsumer(topic, bootstrap_servers=kafka, auto_offset_reset="earliest") as consumer:
            await consumer.getone()
            for _ in range(count):
                await asyncio.sleep(random.uniform(0.02, 0.1))
                begun = time.perf_counter()
                await producer.send(topic, b"x" * 1000)
                await consumer.getone()
                waits.append(time.perf_counter() - begun)
    return waits


async def idle(here: Place, _: int, count: int = 200) -> None:
    """One task at a time: from the request to the command in a worker's hands."""
    records, commits = await legs(here.kafka, 100), fsyncs(here.folder, 100)
    say("floor: a record through the bare broker", spread(records))
    floor = 2e3 * statistics.median(records) + 3e3 * statistics.median(commits)
    say("floor: two records and three commits, medians", f"{floor:.1f} ms")
    with here.hands("--workers", "4") as read:
        for _ in range(3):
            await here.submit()
        await here.until("completed", 3)
        begun: dict[str, float] = {}
        for _ in range(count):
            at = time.time()
            begun[await here.submit()] = at
            await asyncio.sleep(random.uniform(0.05, 0.25))
        await here.until("completed", count + 3)
        came = read()
    waits = [came[task] - at for task, at in begun.items()]
    say("idle: request -> a worker has the command", spread(waits), "p50 ≤ 15 ms, p99 ≤ 60 ms")


async def queued(here: Place, count: int) -> None:
    """A queue that waits for workers, and the workers come: placements through Kafka."""
    begun = time.perf_counter()
    tasks = await here.submit_many(count)
    rate("accepted while no worker is there", count, time.perf_counter() - begun)
    with here.hands() as read:
        await eventually(lambda: len(read()) >= count, within=600, what="all commands", every=0.5)
        ranked = sorted(when for task, when in read().items() if task in set(tasks))
        rate("placements through Kafka, a full queue", count - 1, ranked[-1] - ranked[0], "≥ 200 /s")
        await here.until("completed", count)


async def burst(here: Place, count: int) -> None:
    """Tasks that do nothing, all at once, with the whole history of each."""
    with here.hands() as _:
        await asyncio.sleep(3)
        already = await here.in_status("completed")
        used, begun = cpu_of(here.plane.pid), time.perf_counter()
        tasks = await here.submit_many(count)
        await here.until("completed", already + count)
        took = time.perf_counter() - begun
        rate("burst: tasks that do nothing, to their end", count, took, "≥ 100 /s, then 400")
        say("burst: control plane's CPU", f"{1e3 * (cpu_of(here.plane.pid) - used) / count:.2f} ms a task")
    whole = 0
    for task in tasks:
        answer = await here.api.get(f"/tasks/{task}/history")
        entries = answer.raise_for_status().json()["entries"]
        whole += entries[-1]["status"] == "completed" and {"pending", "running"} <= {e["status"] for e in entries}
    say("burst: tasks with their whole history", f"{whole} of {count}", "all")


async def active(here: Place, count: int, seconds: float = 40, callers: int = 100) -> None:
    """Thousands of running tasks that report every 5 s, and people who ask about once a second."""
    with here.hands("--hold") as _:
        tasks = await here.submit_many(count)
        await here.until("running", count)
        await asyncio.sleep(10)
        until = time.monotonic() + seconds
        waits: dict[str, list[float]] = {}

        async def timed(what: str, method: str, path: str, **more: object) -> None:
            begun = time.perf_counter()
            answer = await here.api.request(method, path, **more)  # type: ignore[arg-type]
            answer.raise_for_status()
            waits.setdefault(what, []).append(time.perf_counter() - begun)

        async def caller(chance: random.Random) -> None:
            while time.monotonic() < until:
                await asyncio.sleep(chance.uniform(0, 2))
                kind = chance.random()
                if kind < 0.1:
                    await timed("floor: GET /health/live", "GET", here.plane.url + "/health/live")
                elif kind < 0.6:
                    await timed("GET /tasks/{id}", "GET", f"/tasks/{chance.choice(tasks)}")
                elif kind < 0.8:
                    await timed("GET /tasks?status=running", "GET", "/tasks?status=running&limit=50")
                elif kind < 0.9:
                    await timed("GET /tasks/{id}/why", "GET", f"/tasks/{chance.choice(tasks)}/why")
                else:
                    config = here.config
                    await timed("POST /tasks", "POST", "/tasks", json={"config": config, "start": False})

        who = {"control plane": here.plane.pid, "workers": here.workers, "callers": os.getpid()}
        used, begun = {name: cpu_of(pid) for name, pid in who.items()}, time.monotonic()
        await asyncio.gather(*[caller(random.Random(number)) for number in range(callers)])
        took = time.monotonic() - begun
        for what, each in sorted(waits.items()):
            goal = "" if what.startswith("floor") else "p99 < 100 ms"
            say(f"{count:,} running, {callers} callers: {what}", spread(each), goal)
        say(f"{count:,} running: asked", f"{sum(map(len, waits.values())) / took:.0f} times a second")
        for name, pid in who.items():
            say(f"{count:,} running: CPU, {name}", f"{100 * (cpu_of(pid) - used[name]) / took:.0f} % of a core")
        steps = [
            (await here.api.get(f"/tasks/{task}")).json()["progress"]["current_step"] for task in tasks[::100]
        ]
        say(f"{count:,} running: tasks that show progress", f"{sum(step > 0 for step in steps)} of {len(steps)}")


async def main(options: argparse.Namespace) -> None:
    """Measure each part on a broker and a store of its own."""
    for part in options.only.split(","):
        with bench() as (broker, folder):
            say("floor: the disk keeps a few bytes", spread(fsyncs(folder, 200)))
            async with place(a_folder(folder, part), broker.bootstrap) as here:
                await PARTS[part](here, options.tasks)


PARTS: dict[str, Callable[[Place, int], Awaitable[None]]] = {
    "idle": idle,
    "queued": queued,
    "burst": burst,
    "active": active,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("tasks", type=int, nargs="?", default=5000)
    parser.add_argument("--only", default="idle,queued,burst,active")
    asyncio.run(main(parser.parse_args()))
