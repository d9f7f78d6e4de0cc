"""The protocol under test: a story of events with repeats and poison, the service that is told it, the checker.

Not here: what is done to the service meanwhile (`protocol_campaign.py`, tests/integration/test_protocol_kills.py).
"""

import asyncio
import hashlib
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient

from tests.faults.zygote import Zygote
from tests.integration.protocol_process import ALL, KEEPS_EVERY, KEPT, NAME, content_of
from tests.runtime_kit import record, task_event, versions_seen
from trainwright.contracts.errors import TrainwrightError
from trainwright.contracts.queue import TaskQueued
from trainwright.contracts.topics import DEAD, QUEUE, TASK
from trainwright.runtime import engines
from trainwright.runtime.apply import DEAD_LETTERS, open_record
from trainwright.runtime.envelope import Reread
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings

VERSIONS, POISONS = 40, 37
MODULE = "tests.integration.protocol_process"


@dataclass
class Found:
    """What the checker found wrong."""

    lost: list[str] = field(default_factory=list)
    """I1: events that were told and never applied."""
    twice: list[str] = field(default_factory=list)
    """I2: events that had their effect more than once."""
    disordered: list[str] = field(default_factory=list)
    """I3: tasks to which an older version was applied after a newer one."""
    unanswered: list[str] = field(default_factory=list)
    """I4: events whose answer is not on the log."""
    renamed: list[str] = field(default_factory=list)
    """I2: answers that were said again under another identifier."""
    unkept: list[str] = field(default_factory=list)
    """I4: files that were to be kept and are not."""
    damaged: list[str] = field(default_factory=list)
    """I5: files whose content is not what their hash says."""
    orphaned: list[str] = field(default_factory=list)
    """I6: files that are kept and that no document names."""
    waiting: int = 0
    """I6: rows that are still in the outbox."""
    dead: int = 0

    def wrong(self, poisons: int = POISONS) -> list[str]:
        """Return what is wrong, in words."""
        lists = {one.name: getattr(self, one.name) for one in fields(self)}
        found = [
            f"{len(some)} {name}: {some[:3]}" for name, some in lists.items() if isinstance(some, list) and some
        ]
        if self.dead != poisons:
            found.append(f"{self.dead} of {poisons} poisoned records are put aside")
        return found + ([f"{self.waiting} rows wait"] if self.waiting else [])


def story(tasks: int, chance: random.Random, repeats: float = 0.07) -> list[Reread]:
    """Return 40 events of each task in order, some repeats of earlier ones and 37 records of poison."""
    queues = {n: [task_event(n, version) for version in range(1, VERSIONS + 1)] for n in range(tasks)}
    told: list[Reread] = []
    while queues:
        number = chance.choice(list(queues))
        told.append(record(queues[number].pop(0)))
        if not queues[number]:
            del queues[number]
        if chance.random() < repeats:
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


@dataclass(frozen=True, slots=True)
class Where:
    """Where the service finds everything: Kafka, `sqlite:…` or `mongodb://…`, `dir:…` or `s3:…`."""

    kafka: str
    store: str
    blobs: str
    database: str = "protocol"
    env: Mapping[str, str] = field(default_factory=dict)
    """Where S3 answers and who may ask, as variables."""

    @property
    def settings(self) -> RuntimeSettings:
        """Return it as the service's settings."""
        where = {"kafka": self.kafka, "store": self.store, "blobs": self.blobs, "database": self.database}
        s3 = {name.removeprefix("TRAINWRIGHT_").lower(): value for name, value in self.env.items()}
        return RuntimeSettings.model_validate(where | s3)


def in_folder(bootstrap: str, folder: Path) -> Where:
    """Return the embedded engines in a folder."""
    return Where(bootstrap, f"sqlite:{folder}/store", f"dir:{folder}/blobs")


class Service:
    """The counting service, to be killed."""

    def __init__(self, zygote: Zygote, where: Where, end: int, plant: str | None = None) -> None:
        self._zygote = zygote
        self.end = end
        """The offset up to which it has to come before it ends by itself."""
        self._argv = [where.kafka, where.store, where.blobs, "--database", where.database]
        self._argv += ["--plant", plant] if plant else []
        self._env = where.env

    def run(
        self,
        crash: str = "",
        *,
        kill_after: float | None = None,
        clock: float = 0,
        meanwhile: Callable[[int], None] = lambda pid: None,
    ) -> int:
        """Run it until it ends, or for so long; return its exit status."""
        argv = [*self._argv, "--end", str(self.end), "--clock", str(clock)]
        return self._zygote.run(
            *argv, env={**self._env, "CRASH_POINTS": crash}, kill_after=kill_after, meanwhile=meanwhile
        )


async def begin(bootstrap: str, told: Sequence[Reread]) -> int:
    """Tell a story on topics that hold nothing else; return the offset after its end."""
    await forget(bootstrap)
    return await go_on(bootstrap, told)


async def go_on(bootstrap: str, told: Sequence[Reread]) -> int:
    """Tell what follows; return the offset after its end."""
    kafka = Kafka(RuntimeSettings(kafka=bootstrap))
    await kafka.ensure_topics()
    async with kafka.producer() as producer:
        acks = [await producer.send(TASK.name, value=r.value, key=r.key, headers=r.headers) for r in told]
        await asyncio.gather(*acks)
    return (await kafka.end_offsets([TopicPartition(TASK.name, 0)]))[TopicPartition(TASK.name, 0)]


async def forget(bootstrap: str) -> None:
    """Delete the topics of an earlier story, and how far the service has read them."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        mine = {TASK.name, QUEUE.name, DEAD.name} & set(await admin.list_topics())
        if not mine:
            return
        await admin.delete_topics(list(mine))
        for _ in range(200):  # the group's offsets go with the topic, a moment later
            if not await admin.list_consumer_group_offsets(NAME):
                return
            await asyncio.sleep(0.05)
    finally:
        await admin.close()


async def check(where: Where, tasks: int) -> Found:
    """Compare what the service applied, said and kept with what it was told."""
    found = Found()
    store = engines.documents(where.settings, NAME, ALL)
    await store.open()
    seen = await versions_seen(store)
    kept = {one["id"]: one for one in (await store.find(KEPT.name, limit=100_000)).items}
    found.dead = await store.count(DEAD_LETTERS.name)
    found.waiting = await store.outbox_depth()
    await store.close()
    answers = await answered(where.kafka)
    found.renamed = [f"{name}/{version}" for (name, version), ids in answers.items() if len(ids) > 1]
    for number in range(tasks):
        name = f"task-{number:012x}"
        versions = seen.get(name, [])
        counted = Counter(versions)
        found.lost += [f"{name}/{v}" for v in range(1, VERSIONS + 1) if v not in counted]
        found.twice += [f"{name}/{v}" for v, times in counted.items() if times > 1]
        found.disordered += [name] if versions != sorted(versions) else []
        found.unanswered += [f"{name}/{v}" for v in range(1, VERSIONS + 1) if (name, v) not in answers]
        for version in range(KEEPS_EVERY, VERSIONS + 1, KEEPS_EVERY):
            await _check_kept(where, kept, name, version, found)
    named = {document["sha256"] for document in kept.values()}
    blobs = engines.blobs(where.settings)
    found.orphaned = [one.sha256 async for one in blobs.stored() if one.sha256 not in named]
    return found


async def _check_kept(
    where: Where, kept: dict[str, dict[str, object]], name: str, version: int, found: Found
) -> None:
    id, wanted = f"{name}/{version}", content_of(name, version)
    document = kept.get(id)
    if document is None:
        found.unkept.append(id)
        return
    if document["times"] != 1:
        found.twice.append(f"{id} kept")
    try:
        content = await engines.blobs(where.settings).read_bytes(str(document["sha256"]))
    except TrainwrightError:
        content = b""
    if content != wanted or hashlib.sha256(wanted).hexdigest() != document["sha256"]:
        found.damaged.append(id)


async def answered(bootstrap: str) -> dict[tuple[str, int], set[str]]:
    """Return what the service answered on the log, with the identifiers of each answer."""
    consumer = AIOKafkaConsumer(QUEUE.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    (partition,) = consumer.assignment()
    end = (await consumer.end_offsets([partition]))[partition]
    answers: dict[tuple[str, int], set[str]] = defaultdict(set)
    while await consumer.position(partition) < end:
        for batch in (await consumer.getmany(timeout_ms=500)).values():
            for envelope, event in map(open_record, batch):
                if isinstance(event, TaskQueued):
                    answers[event.subject, event.placement.version].add(envelope.id)
    await consumer.stop()
    return answers
