"""How long accepting a task takes: alone, with 100 callers, and while Kafka is away.

    python tests/bench/bench_post.py [requests]

All services run in one process and the gateway is asked. The floors are an fsync of the same disk and the
gateway's answer to a question that needs no store.
"""

import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import httpx

from services.app import SERVICES
from tests.bench.figures import bench, say, spread
from tests.harness import API, ServiceProcess, services
from trainwright.embedded.kafka import KafkaProcess

Ask = Callable[[], Awaitable[float]]


async def timed(call: Awaitable[httpx.Response], status: int) -> float:
    """Return how long an answer took."""
    started = time.perf_counter()
    answer = await call
    took = time.perf_counter() - started
    assert answer.status_code == status, answer.text
    return took


async def by_many(ask: Ask, count: int, callers: int) -> list[float]:
    """Ask so many times; of several callers each asks about once a second, as people and their scripts do."""
    chance = random.Random(callers)

    async def caller() -> list[float]:
        waits = []
        for _ in range(count // callers):
            await asyncio.sleep(chance.uniform(0, 2) if callers > 1 else 0)
            waits.append(await ask())
        return waits

    return [wait for waits in await asyncio.gather(*[caller() for _ in range(callers)]) for wait in waits]


def fsyncs(folder: Path, count: int) -> list[float]:
    """Return how long the disk takes to keep a few bytes."""
    waits = []
    with (folder / "sync").open("ab") as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(b"x" * 512)
            file.flush()
            os.fsync(file.fileno())
            waits.append(time.perf_counter() - started)
    return waits


async def measure(run: ServiceProcess, broker: KafkaProcess, folder: Path, key: str, count: int) -> None:
    """Measure."""
    say("floor: the disk keeps a few bytes", spread(fsyncs(folder, 200)))
    limits = httpx.Limits(max_connections=100, max_keepalive_connections=100)
    headers = {"authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(base_url=run.url, headers=headers, limits=limits, timeout=30) as client:

        async def live() -> float:
            return await timed(client.get("/health/live"), 200)

        script = folder / "train.py"
        script.write_text("print('nothing')\n")
        body = {"config": {"recipe": "script", "parameters": {"path": str(script)}, "name": "bench"}}

        async def post() -> float:
            return await timed(client.post(f"{API}/tasks", json=body), 201)

        async def get() -> float:
            return await timed(client.get(f"{API}/tasks?limit=20"), 200)

        await by_many(post, 20, 1)
        say("floor: GET /health/live, alone", spread(await by_many(live, count, 1)))
        say("POST /tasks, alone", spread(await by_many(post, count, 1)), "p99 ≤ 100 ms")
        say("floor: GET /health/live, 100 callers", spread(await by_many(live, count, 100)))
        say("POST /tasks, 100 callers", spread(await by_many(post, count, 100)), "p99 ≤ 100 ms")
        say("GET /tasks, 100 callers", spread(await by_many(get, count, 100)), "p99 ≤ 100 ms")
        broker.kill()
        say("POST /tasks, alone, Kafka killed", spread(await by_many(post, count, 1)), "p99 ≤ 100 ms")


async def main(count: int) -> None:
    """Start everything and measure."""
    with bench() as (broker, folder):
        key = folder / "api-key"
        key.write_text("key-of-the-bench\n")
        names = [*[name for name in SERVICES if name != "gateway"], "gateway"]
        with services(names, broker.bootstrap, folder, TRAINWRIGHT_ADMIN_KEY_FILE=str(key)) as run:
            await run.ready()
            await measure(run, broker, folder, key.read_text().strip(), count)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000))
