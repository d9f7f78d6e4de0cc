"""The log wiped while services run and between runs, and said again from its beginning: nobody is misled."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from services.app import SERVICES
from tests.harness import ServiceProcess, eventually, services
from tests.integration.real_parts import KEY, NAMES, person, worker
from tests.integration.runtime_parts import client_of, delete, log_of
from tests.kafka_fixture import own_broker
from tests.planted import NO_INBOX, planted
from tests.store_hash import digest, hashes, rows_of
from trainwright.contracts.topics import ATTEMPT, COMMAND, QUEUE, RESULT, TASK, TOPICS, WORKER
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.service import Runtime
from trainwright.runtime.settings import RuntimeSettings

WAITS = """
import pathlib, sys, time
import trainwright

run = trainwright.init()
for step in run.steps(20, checkpoint_every=10, state={"n": 1}):
    run.log(step, {"twice": 2 * step})
    while step == 10 and not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.05)
print("trained")
"""


OWNERS_KEEP = (TASK, QUEUE, COMMAND, ATTEMPT, WORKER, RESULT)
"""Topics that are written from an outbox; what runs said themselves (metrics, logs) is kept by its readers."""

FORGETS = "scheduler"
"""The service that is given a bug: it takes every event for news."""

FACT = ("ce_type", "ce_subject", "ce_version", "ce_attempt")
"""What an event says that is new; said again under another identifier it is the same."""


@dataclass
class Platform:
    """All services in one process, a worker, and a broker that may be robbed of its log."""

    broker: KafkaProcess
    plane: ServiceProcess
    api: httpx.AsyncClient
    folder: Path

    @property
    def stores(self) -> Path:
        """Return where the services keep what they know."""
        return self.folder / "services"

    async def submit(self, go_on: Path | None = None) -> str:
        """Start a task; one with `go_on` stops half-way until that file is there."""
        parameters = {"path": str(self.folder / "waits.py"), "args": [str(go_on or self.folder)]}
        config = {"recipe": "script", "parameters": parameters, "resource_requirements": {"cpu": 0.5}}
        answer = await self.api.post("/tasks", json={"config": config, "start": True})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["task_id"])

    async def reaches(self, task_id: str, status: str, step: int = 0) -> None:
        """Wait until a task has a status, and has got so far."""
        found: dict[str, Any] = {}

        async def does() -> bool:
            found.update((await self.api.get(f"/tasks/{task_id}")).json())
            return bool(found["status"] == status and found["progress"]["current_step"] >= step)

        try:
            await eventually(does, within=90, what=f"{task_id} to be {status}", every=0.2)
        except AssertionError as error:
            raise AssertionError(f"{error}: {found}") from error

    def lose_the_log(self) -> None:
        """End Kafka as a crash would, and start another one without a memory in its place."""
        self.broker.kill()
        shutil.rmtree(self.broker.folder / "log")

    async def start_anew(self) -> None:
        """Start Kafka again."""
        await asyncio.to_thread(self.broker.start)
        await asyncio.to_thread(self.broker.wait_ready)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaProcess]:
    with own_broker(tmp_path / "kafka") as made:
        yield made


@pytest.fixture
async def platform(broker: KafkaProcess, tmp_path: Path) -> AsyncIterator[Platform]:
    (tmp_path / "api-key").write_text(KEY)
    (tmp_path / "waits.py").write_text(WAITS)
    env = {
        "TRAINWRIGHT_BLOBS": f"dir:{tmp_path}/blobs",
        "TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key"),
        "SCHEDULER_LEASE": "30",
    }
    of_worker = {**env, "TRAINWRIGHT_KAFKA": broker.bootstrap, "TRAINWRIGHT_WORKER_CPUS": "2"}
    with services(NAMES, broker.bootstrap, tmp_path, **env) as plane, worker(of_worker, tmp_path / "worker"):
        await plane.ready()
        async with person(plane) as api:
            yield Platform(broker, plane, api, tmp_path)


async def said(broker: KafkaProcess, *headers: str) -> set[tuple[str, ...]]:
    """Return which events that owners keep are on the log, however often, each by some of its headers."""
    records = [record for topic in OWNERS_KEEP for record in await log_of(broker.bootstrap, topic.name)]
    told = [dict(record.headers) for record in records]
    return {tuple(found.get(name, b"").decode() for name in headers) for found in told}


async def test_a_log_that_is_wiped_is_said_again_and_every_task_ends(platform: Platform) -> None:
    """First under running services, with a task that runs; then between two runs of the services."""
    go_on = platform.folder / "go-on"
    done = await platform.submit()
    runs = await platform.submit(go_on)
    await platform.reaches(done, "completed")
    await platform.reaches(runs, "running", step=10)
    before = await said(platform.broker, "ce_id")

    platform.lose_the_log()
    waits = await platform.submit()  # nobody who asks has to wait for Kafka
    go_on.touch()
    await platform.start_anew()
    for task_id in (runs, waits, await platform.submit()):
        await platform.reaches(task_id, "completed")
    after = await everything_is_back(platform, before)

    assert platform.plane.stop() == 0, platform.plane.log()
    platform.lose_the_log()
    platform.plane.start()
    await platform.start_anew()
    await platform.plane.ready()
    await platform.reaches(await platform.submit(), "completed")
    await everything_is_back(platform, after)
    assert await attempts(platform) == [1] * 5
    assert (await platform.api.get("/dead")).json()["dead_letters"] == []


async def test_a_topic_that_is_deleted_comes_back_and_every_task_ends(platform: Platform) -> None:
    """Three at once, in a cluster that lives on: what commands are read from, who says it, who decides by it."""
    go_on = platform.folder / "go-on"
    runs = await platform.submit(go_on)
    await platform.reaches(runs, "running", step=10)
    before = await said(platform.broker, "ce_id")

    for topic in (TASK, QUEUE, COMMAND):
        await delete(platform.broker.bootstrap, topic.name)
    waits = await platform.submit()
    go_on.touch()
    for task_id in (runs, waits, await platform.submit()):
        await platform.reaches(task_id, "completed")
    await everything_is_back(platform, before)
    assert await attempts(platform) == [1] * 3
    assert (await platform.api.get("/dead")).json()["dead_letters"] == []


async def everything_is_back(platform: Platform, before: set[tuple[str, ...]]) -> set[tuple[str, ...]]:
    """Wait until all that an earlier log held is on this one; return what is."""
    found: set[tuple[str, ...]] = set()

    async def is_back() -> bool:
        found.update(await said(platform.broker, "ce_id"))
        return before <= found

    await eventually(is_back, within=90, what="everything to be said again", every=1)
    return found


async def attempts(platform: Platform) -> list[int]:
    """Return how many attempts each task took."""
    tasks = (await platform.api.get("/tasks", params={"limit": 100})).json()["tasks"]
    return [task["attempt"] for task in tasks]


async def test_every_topic_said_again_from_its_beginning_changes_no_store(platform: Platform) -> None:
    """Every record that is on the log, byte for byte and in its order, to services and a worker that run."""
    await platform.reaches(await platform.submit(), "completed")
    waits = await platform.submit(platform.folder / "never")
    await platform.reaches(waits, "running", step=10)
    await platform.api.post(f"/tasks/{waits}/cancel", params={"wait": 60})
    await all_is_read(platform)
    before, events = contents(platform), await said(platform.broker, *FACT)
    assert hashes(platform.stores).keys() == set(NAMES)

    assert await say_all_again(platform.broker.bootstrap) > 50
    await all_is_read(platform)
    assert changes(platform, before) == {}
    assert {name: digest(rows) for name, rows in before.items()} == hashes(platform.stores)
    assert await said(platform.broker, *FACT) == events, "a repeat made somebody say something new"

    assert platform.plane.stop() == 0, platform.plane.log()
    platform.plane.start(**planted(NO_INBOX.format(service=FORGETS), platform.folder / "bug"))
    await platform.plane.ready()
    await say_all_again(platform.broker.bootstrap)
    await all_is_read(platform)
    assert FORGETS in {name for name, _ in changes(platform, before)}, "what this test looks for, it finds"


Contents = dict[str, dict[str, list[str]]]


def contents(platform: Platform) -> Contents:
    """Return all rows of all stores, by service and table."""
    return {path.stem: rows_of(path) for path in databases(platform)}


def changes(platform: Platform, before: Contents) -> dict[tuple[str, str], list[str]]:
    """Return the rows that are not as they were, by service and table."""
    changed = {
        (name, table): sorted(set(rows) ^ set(before[name][table]))
        for name, tables in contents(platform).items()
        for table, rows in tables.items()
    }
    return {where: rows for where, rows in changed.items() if rows}


def databases(platform: Platform) -> list[Path]:
    return sorted(platform.stores.glob("*.db"))


async def say_all_again(bootstrap: str) -> int:
    """Send each record of each topic once more; return how many."""
    held = {topic.name: await log_of(bootstrap, topic.name) for topic in TOPICS}
    async with client_of(bootstrap).producer() as producer:
        for name, records in held.items():
            for record in records:
                headers = list(record.headers)
                await producer.send(name, value=record.value, key=record.key, headers=headers, partition=0)
        await producer.flush()
    return sum(len(records) for records in held.values())


async def all_is_read(platform: Platform) -> None:
    """Wait until every service has read what is on the log now, and has said all that it had to say."""
    runtime = Runtime(RuntimeSettings(store="sqlite:/nowhere", blobs="dir:/nowhere"))
    kafka = client_of(platform.broker.bootstrap)
    read = {(name, topic.name) for name in NAMES for topic in SERVICES[name](runtime).reactions}
    async with kafka._admin() as admin:
        for _ in range(2):  # what is read may have something said
            ends = await kafka.end_offsets([TopicPartition(topic.name, 0) for topic in TOPICS])
            for service, topic in sorted(read):
                group, place = f"trainwright.{service}.{topic.split('.')[1]}", TopicPartition(topic, 0)
                reached = partial(has_read, admin, group, place, ends[place])
                await eventually(reached, within=30, what=f"{group} to have read everything")


async def has_read(admin: AIOKafkaAdminClient, group: str, place: TopicPartition, end: int) -> bool:
    """Return whether a group has committed all that was there to be read."""
    held = (await admin.list_consumer_group_offsets(group)).get(place)
    return end == 0 or (held is not None and held.offset >= end)
