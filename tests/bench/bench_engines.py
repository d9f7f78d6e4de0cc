"""Short tasks per second, end to end, and rows per second through the relay: MongoDB beside SQLite in one run.

    python -m tests.bench.bench_engines [tasks] [rows]

MongoDB is what `TRAINWRIGHT_TEST_MONGODB_URL` names, else the stand-in, which the output says.
"""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx

from tests.bench.bench_relay import through_the_relay
from tests.bench.figures import bench, say
from tests.harness import ServiceProcess, services
from tests.mongo_server import VARIABLE, stand_in
from tests.runtime_kit import COLLECTIONS
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.document import DocumentStore
from trainwright.storage.mongo import MongoStore
from trainwright.storage.sqlite import SqliteStore

NAMES = ("task", "scheduler", "monitor", "result", "log", "gateway")
KEY = "a-key-of-the-benches-0123456789"


@contextmanager
def mongodb(folder: Path) -> Iterator[str]:
    """Give the address of the MongoDB to measure, and say which it is."""
    if url := os.environ.get(VARIABLE):
        say("MongoDB", f"what {VARIABLE} names")
        yield url
        return
    with stand_in(folder) as server:
        say("MongoDB", server.what)
        yield server.url


@contextmanager
def platform(store: dict[str, str], kafka: str, folder: Path) -> Iterator[ServiceProcess]:
    """Run all services in one process, and a worker, to the end of the block."""
    folder.mkdir()
    (folder / "none.py").write_text("")
    (folder / "api-key").write_text(KEY)
    env = {"TRAINWRIGHT_KAFKA": kafka, "TRAINWRIGHT_BLOBS": f"dir:{folder}/blobs", **store}
    own = {"TRAINWRIGHT_WORKER_HOME": str(folder / "worker")}
    command = [sys.executable, "-m", "services.trainer_worker"]
    with services(NAMES, kafka, folder, TRAINWRIGHT_ADMIN_KEY_FILE=str(folder / "api-key"), **env) as plane:
        with (folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(command, env={**os.environ, **env, **own}, stdout=log, stderr=log)
        try:
            yield plane
        finally:
            process.terminate()
            process.wait()


async def short_tasks(engine: str, store: dict[str, str], kafka: str, folder: Path, count: int) -> float:
    """Return how many tasks a second go from their submission to their end, all of them at once."""
    with platform(store, kafka, folder) as plane:
        await plane.ready()
        base, bearer = f"{plane.url}/api/v1/training", {"Authorization": f"Bearer {KEY}"}
        async with httpx.AsyncClient(base_url=base, headers=bearer, timeout=60) as api:
            await _through(api, folder, 2)  # the worker has come, everything is warm
            took = await _through(api, folder, count)
    say(f"short tasks, {engine}", f"{count / took:.2f} /s")
    return count / took


async def _through(api: httpx.AsyncClient, folder: Path, count: int) -> float:
    config = {"recipe": "script", "name": "none", "parameters": {"path": str(folder / "none.py")}}
    begun = time.perf_counter()
    answers = [await api.post("/tasks", json={"config": config, "start": True}) for _ in range(count)]
    waiting = {answer.raise_for_status().json()["task_id"] for answer in answers}
    while waiting:
        page = (await api.get("/tasks", params={"status": "completed", "limit": 200})).raise_for_status().json()
        waiting -= {task["task_id"] for task in page["tasks"]}
        await asyncio.sleep(0.05)
    return time.perf_counter() - begun


async def main(tasks: int, rows: int) -> None:
    """Measure."""
    with bench() as (broker, folder), tempfile.TemporaryDirectory() as other, mongodb(Path(other)) as url:
        sqlite = {"TRAINWRIGHT_STORE": f"sqlite:{folder}/stores"}
        mongo = {"TRAINWRIGHT_STORE": url, "TRAINWRIGHT_DATABASE": f"bench_{uuid4().hex[:8]}"}
        rates = [
            await short_tasks(name, store, broker.bootstrap, folder / name, tasks)
            for name, store in (("SQLite", sqlite), ("MongoDB", mongo))
        ]
        say("short tasks, MongoDB beside SQLite", f"{rates[1] / rates[0]:.2f}", "≥ 0.3")
        kafka = Kafka(RuntimeSettings(kafka=broker.bootstrap))
        await kafka.ensure_topics()
        stores: tuple[DocumentStore, ...] = (
            SqliteStore(folder / "relay.db", COLLECTIONS),
            MongoStore(url, f"{mongo['TRAINWRIGHT_DATABASE']}_relay", COLLECTIONS),
        )
        for name, store in zip(("SQLite", "MongoDB"), stores, strict=True):
            await through_the_relay(name, store, kafka, rows)


if __name__ == "__main__":
    asyncio.run(main(*[int(word) for word in [*sys.argv[1:], "30", "10000"][:2]]))
