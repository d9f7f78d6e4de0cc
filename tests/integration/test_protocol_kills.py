"""The protocol under kill -9: nothing lost, nothing applied twice, poison put aside; and the checker is no fool.

A real process consumes 2,000 events with repeats and poison among them and is killed again and again. Then the
same is done to processes with a planted bug: the checker must find what each of them breaks.
"""

import asyncio
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from tests.runtime_kit import COLLECTIONS, record, task_event, versions_seen
from trainwright.contracts.queue import TaskQueued
from trainwright.contracts.topics import QUEUE, TASK
from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.apply import DEAD_LETTERS, open_record
from trainwright.runtime.envelope import Reread
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.sqlite import SqliteStore

ROOT = Path(__file__).resolve().parents[2]
VERSIONS, POISONS = 40, 37
SEED = int(os.environ.get("PROTOCOL_SEED", "20250303"))
KILLS = int(os.environ.get("PROTOCOL_KILLS", "3"))
"""Kills at random moments, besides one at each point; raise it for a long campaign."""

CRASHES = ("before-transaction:2", "before-commit:3", "after-commit:1", "after-offsets:2", "after-commit:4")


@dataclass
class Found:
    """What the checker found wrong."""

    lost: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)
    dead: int = 0


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[KafkaProcess]:
    port, controller_port = free_ports(2)
    with KafkaProcess(tmp_path / "kafka", port=port, controller_port=controller_port) as made:
        yield made


def story(tasks: int, chance: random.Random) -> list[Reread]:
    """Return 40 events of each task in order, about 7 % repeats of earlier ones and 37 records of poison."""
    queues = {n: [task_event(n, version) for version in range(1, VERSIONS + 1)] for n in range(tasks)}
    told: list[Reread] = []
    while queues:
        number = chance.choice(list(queues))
        told.append(record(queues[number].pop(0)))
        if not queues[number]:
            del queues[number]
        if chance.random() < 0.07:
            told.append(chance.choice(told))
    for place in sorted((chance.randrange(len(told)) for _ in range(POISONS)), reverse=True):
        told.insert(place, poisoned(told[place], chance))
    return told


def poisoned(good: Reread, chance: random.Random) -> Reread:
    """Return a record that can never be applied."""
    value, headers = chance.choice(
        [
            (b'{"task": ', good.headers),
            (None, good.headers),
            (good.value, [("ce_id", b"\xff"), *good.headers[2:]]),
            (good.value, []),
            (b"[]", good.headers),
        ]
    )
    return Reread(good.topic, 0, 0, good.key, value, headers)


async def begin(bootstrap: str, told: list[Reread]) -> int:
    """Tell the story, return the offset after its end."""
    kafka = Kafka(RuntimeSettings(kafka=bootstrap))
    await kafka.ensure_topics()
    async with kafka.producer() as producer:
        await tell(producer, told)
    return (await kafka.end_offsets([TopicPartition(TASK.name, 0)]))[TopicPartition(TASK.name, 0)]


async def tell(producer: AIOKafkaProducer, told: list[Reread]) -> None:
    """Send records in order."""
    acks = [await producer.send(TASK.name, value=r.value, key=r.key, headers=r.headers) for r in told]
    await asyncio.gather(*acks)


class Process:
    """The counting service, to be killed."""

    def __init__(self, bootstrap: str, store: Path, end: int, plant: str | None) -> None:
        plants = ["--plant", plant] if plant else []
        script = [sys.executable, "-m", "tests.integration.protocol_process"]
        self._command = [*script, bootstrap, str(store), str(end), *plants]

    def until_it_ends(self, crash: str | None = None, seconds: float | None = None) -> int:
        """Run it until it ends, or for so long; return its exit status."""
        crashes = ["--crash", crash] if crash else []
        with subprocess.Popen([*self._command, *crashes], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
            try:
                return process.wait(seconds or 60)
            except subprocess.TimeoutExpired:
                process.kill()
                if seconds is None:
                    raise
                return process.wait()


async def check(bootstrap: str, path: Path, tasks: int) -> Found:
    """Compare what the service applied and said with what it was told."""
    found = Found()
    store = SqliteStore(path, COLLECTIONS)
    await store.open()
    seen = await versions_seen(store)
    found.dead = await store.count(DEAD_LETTERS.name)
    await store.close()
    answers = await answered(bootstrap)
    for number in range(tasks):
        name = f"task-{number:012x}"
        versions = seen.get(name, [])
        counted = Counter(versions)
        found.lost += [f"{name}/{v}" for v in range(1, VERSIONS + 1) if v not in counted]
        found.twice += [f"{name}/{v}" for v, times in counted.items() if times > 1]
        found.disordered += [name] if versions != sorted(versions) else []
        found.unanswered += [f"{name}/{v}" for v in range(1, VERSIONS + 1) if (name, v) not in answers]
    return found


async def answered(bootstrap: str) -> set[tuple[str, int]]:
    """Return what the service answered on the log."""
    consumer = AIOKafkaConsumer(QUEUE.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    (partition,) = consumer.assignment()
    end = (await consumer.end_offsets([partition]))[partition]
    answers: set[tuple[str, int]] = set()
    while await consumer.position(partition) < end:
        for batch in (await consumer.getmany(timeout_ms=500)).values():
            events = [open_record(r)[1] for r in batch]
            answers |= {(e.subject, e.placement.version) for e in events if isinstance(e, TaskQueued)}
    await consumer.stop()
    return answers


async def campaign(
    broker: KafkaProcess, folder: Path, crashes: tuple[str, ...], *, tasks: int = 50, plant: str | None = None
) -> Found:
    """Tell the story, kill the service at each point and at random moments, let it end, check."""
    chance = random.Random(SEED)
    told = story(tasks, chance)
    end = await begin(broker.bootstrap, told)
    process = Process(broker.bootstrap, folder / "counting.db", end, plant)
    for crash in crashes:
        status = await asyncio.to_thread(process.until_it_ends, crash)
        assert status in (-9, 0), f"{crash}: ended with {status}"
    for _ in range(KILLS if plant is None else 0):
        await asyncio.to_thread(process.until_it_ends, None, 0.6 + chance.random())
    assert await asyncio.to_thread(process.until_it_ends) == 0
    return await check(broker.bootstrap, folder / "counting.db", tasks)


async def test_nothing_is_lost_or_applied_twice_however_often_it_is_killed(
    broker: KafkaProcess, tmp_path: Path
) -> None:
    assert await campaign(broker, tmp_path, CRASHES) == Found(dead=POISONS)


@pytest.mark.parametrize(
    ("plant", "crash", "wrong"),
    [
        ("commits-first", "before-commit:2", "lost"),
        ("forgets", "after-commit:2", "twice"),
        ("marks-first", "after-mark:2", "unanswered"),
    ],
)
async def test_the_checker_finds_planted_bugs(
    broker: KafkaProcess, tmp_path: Path, plant: str, crash: str, wrong: str
) -> None:
    found = await campaign(broker, tmp_path, (crash,), tasks=8, plant=plant)
    assert getattr(found, wrong), f"{plant} broke nothing that the checker sees: {found}"
