"""Two replicas of every service: nothing is done twice while one is stopped, wakes up, and the other is killed."""

import asyncio
import os
import sqlite3
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.harness import API, Bus, ServiceProcess, eventually, listening, services
from tests.integration.real_parts import KEY, NAMES, worker
from tests.mongo_server import MongoServer
from trainwright.contracts.base import Event, Newer
from trainwright.contracts.command import RunAttempt
from trainwright.contracts.result import ModelVersionRegistered
from trainwright.contracts.topics import TOPIC_OF

LEASE = 2.0
BURST = int(os.environ.get("TRAINWRIGHT_TEST_BURST", "8"))
"""Tasks of each of three bursts."""
STEPS = 12

SCRIPT = f"""
import time
import trainwright

run = trainwright.init()
for step in run.steps({STEPS}):
    run.log(step, {{"twice": 2 * step}})
    time.sleep(0.05)
(run.output / "answer.txt").write_text("done")
"""


@pytest.fixture
def on_sqlite(tmp_path: Path) -> dict[str, str]:
    """Two processes on one file for each service: real isolation without a server."""
    return {"TRAINWRIGHT_STORE": f"sqlite:{tmp_path}/services"}


@pytest.fixture
def on_mongodb(isolating_mongo: MongoServer) -> dict[str, str]:
    return {"TRAINWRIGHT_STORE": isolating_mongo.url, "TRAINWRIGHT_DATABASE": f"test_{uuid4().hex[:8]}"}


@dataclass
class Replicas:
    """Two processes, each with all services, and the people who ask whichever answers."""

    both: list[ServiceProcess]
    bus: Bus
    script: Path

    def api(self, number: int) -> httpx.AsyncClient:
        """Return a client of one of them."""
        bearer = {"Authorization": f"Bearer {KEY}"}
        return httpx.AsyncClient(base_url=self.both[number].url + API, headers=bearer, timeout=90)

    async def submit(self, number: int, count: int) -> list[str]:
        """Start tasks by way of one replica."""
        config = {"recipe": "script", "name": "burst", "parameters": {"path": str(self.script)}}
        config["resource_requirements"] = {"cpu": 0.5}
        made = []
        async with self.api(number) as api:
            for _ in range(count):
                answer = await api.post("/tasks", json={"config": config, "start": True})
                assert answer.status_code == 201, answer.text
                made.append(answer.json()["task_id"])
        return made

    async def completed(self, number: int, task_ids: list[str]) -> None:
        """Wait until one replica shows all of them as completed."""
        async with self.api(number) as api:

            async def rest() -> list[str]:
                found = (await api.get("/tasks", params={"limit": 500})).json()["tasks"]
                by_id = {task["task_id"]: task for task in found}
                return [f"{by_id.get(one)}"[:300] for one in task_ids if by_id[one]["status"] != "completed"]

            async def is_done() -> bool:
                return not await rest()

            try:
                await eventually(is_done, within=120, what="every task to be completed", every=1)
            except AssertionError as error:
                raise AssertionError(f"{error}: {await rest()}") from error

    async def leads(self, number: int) -> bool:
        """Return whether one of them leads every service."""
        async with httpx.AsyncClient(timeout=10) as client:
            found = (await client.get(f"{self.both[number].url}/health/ready")).json()["services"]
        return all(service["leads"] for service in found)


@pytest.fixture(params=["on_sqlite", "on_mongodb"])
async def replicas(own_kafka: str, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Replicas]:
    env = {
        "TRAINWRIGHT_BLOBS": f"dir:{tmp_path}/blobs",
        "TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key"),
        "TRAINWRIGHT_TOPICS": "production",
        "TRAINWRIGHT_STATIC_MEMBERS": "false",
        "TRAINWRIGHT_LEASE_SECONDS": str(LEASE),
        **request.getfixturevalue(request.param),
    }
    (tmp_path / "api-key").write_text(KEY)
    (tmp_path / "burst.py").write_text(SCRIPT)
    of_worker = {**env, "TRAINWRIGHT_KAFKA": own_kafka, "TRAINWRIGHT_WORKER_CPUS": "2"}
    async with AsyncExitStack() as stack:
        both = []
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            both.append(stack.enter_context(services(NAMES, own_kafka, tmp_path / name, **env)))
            await both[-1].ready()
        for name in ("1", "2"):
            stack.enter_context(worker(of_worker, tmp_path / "workers" / name))
        bus = await stack.enter_async_context(listening(own_kafka))
        yield Replicas(both, bus, tmp_path / "burst.py")


async def test_two_replicas_do_nothing_twice(replicas: Replicas, tmp_path: Path) -> None:
    a, b = replicas.both
    await eventually(lambda: replicas.leads(0), within=20, what="the first one to lead")
    task_ids = await replicas.submit(1, BURST)
    stopped = await stop_between_transactions(a, tmp_path / "services")
    await eventually(lambda: replicas.leads(1), within=60, what="the second one to take over")
    task_ids += await replicas.submit(1, BURST)
    stopped.set()
    await eventually(lambda: stands_by(replicas, 0), within=60, what="the first one to find out")
    task_ids += await replicas.submit(0, BURST)
    b.stop(kill=True)
    await eventually(lambda: replicas.leads(0), within=60, what="the first one to take over again")
    await replicas.completed(0, task_ids)
    await check(replicas, task_ids)


async def stands_by(replicas: Replicas, number: int) -> bool:
    """Return whether one of them knows that it leads nothing."""
    async with httpx.AsyncClient(timeout=10) as client:
        found = (await client.get(f"{replicas.both[number].url}/health/ready")).json()["services"]
    return not any(service["leads"] for service in found)


async def stop_between_transactions(process: ServiceProcess, folder: Path) -> asyncio.Event:
    """Stop a process where it holds no lock of a file: a lock would stop the other one too, which is SQLite's way.

    Setting the event that is returned lets it go on.
    """
    while True:
        process.pause()
        if not await asyncio.to_thread(_is_locked, folder):
            break
        process.go_on()
        await asyncio.sleep(0.05)
    go_on = asyncio.Event()

    async def later() -> None:
        await go_on.wait()
        process.go_on()

    WAITING.add(asyncio.create_task(later()))
    return go_on


WAITING: set[asyncio.Task[None]] = set()


def _is_locked(folder: Path) -> bool:
    for path in folder.glob("*.db"):
        connection = sqlite3.connect(path, timeout=0.2, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            connection.execute("ROLLBACK")
        except sqlite3.OperationalError:
            return True
        finally:
            connection.close()
    return False


async def check(replicas: Replicas, task_ids: list[str]) -> None:
    """Compare what was said and what is shown with what happens when there is one process."""
    tape = replicas.bus.tape

    def models() -> dict[str, set[str]]:
        found: dict[str, set[str]] = defaultdict(set)
        for event in tape.of(ModelVersionRegistered):
            found[event.model.task_id].add(event.model.model_id)
        return found

    await eventually(lambda: models().keys() >= set(task_ids), within=60, what="a model version of every task")
    assert {len(ids) for ids in models().values()} == {1}
    assert len({model for ids in models().values() for model in ids}) == len(task_ids)
    assert contradictions(tape.events) == []
    commands: dict[tuple[str, int], set[str]] = defaultdict(set)
    for command in tape.of(RunAttempt):
        commands[command.task_id, command.attempt].add(command.model_dump_json())
    assert all(len(said) == 1 for said in commands.values())
    async with replicas.api(0) as api:
        for task_id in task_ids:
            task = (await api.get(f"/tasks/{task_id}")).json()
            attempts = (await api.get(f"/tasks/{task_id}/attempts")).json()
            assert task["attempt"] == 1, attempts
            assert [one["attempt"] for one in attempts["attempts"]] == [1]

            async def curve(task_id: str = task_id) -> Any:
                found = await api.get(f"/tasks/{task_id}/metrics", params={"name": "twice"})
                return found.json().get("points") == [[n, 2 * n] for n in range(1, STEPS + 1)]

            await eventually(curve, within=30, what=f"every point of {task_id} once")
        assert (await api.get("/dead")).json()["dead_letters"] == []


def contradictions(events: list[Event]) -> list[str]:
    """Return versions of things that were said with two contents. What is said again for somebody who does not
    answer may be said by an event of another name (``Announcer``): readers take over the document that it carries.
    """
    said: dict[tuple[str, str, tuple[int, int]], set[str]] = defaultdict(set)
    for event in events:
        if isinstance(event.guard, Newer) and TOPIC_OF[type(event)].name != "trainwright.pulse.v1":
            key = (TOPIC_OF[type(event)].name, event.guard.subject, event.guard.order)
            said[key].add(event.model_dump_json())
    return [f"{key}: {contents}" for key, contents in said.items() if len(contents) > 1]
