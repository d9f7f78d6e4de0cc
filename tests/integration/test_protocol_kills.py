"""The protocol under kill -9: nothing lost, nothing applied twice, poison put aside; and the checker is no fool.

A real process consumes 2,000 events with repeats and poison among them and is killed at every point of its code
that a record passes. Then the same is done to processes with a planted bug: the checker must find what each of
them breaks. The long form is `make faults`.
"""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import pytest

from tests.faults.protocol import MODULE, Found, Service, Where, begin, check, in_folder, story
from tests.faults.zygote import Zygote
from tests.kafka_fixture import own_broker
from tests.minio_server import MinioServer

SEED = 20250303
CRASHES = (
    "effect.done:3:kill",
    "directory.aside:2:kill",
    "directory.flushed:1:kill",
    "directory.named:2:kill",
    "effect.marked:2:kill",
    "consumer.polled:2:kill",
    "sqlite.began:3:kill",
    "apply.handled:40:kill",
    "apply.buried:1:kill",
    "sqlite.written:3:kill",
    "sqlite.committed:4:kill",
    "consumer.applied:2:kill",
    "consumer.committed:2:kill",
    "relay.read:2:kill",
    "relay.sending:1:kill",
    "relay.acknowledged:2:kill",
    "relay.marked:1:kill",
    "directory.aside:1:full",
)
"""In an order in which each is passed: effects run beside, one at a time, and are soon through."""
ON_S3 = ("s3.hashed:1:kill", "s3.put:1:kill", "s3.hashed:3:kill", "s3.put:3:kill")
MUST_FIND = [
    ("commits-first", "sqlite.written:3:kill", "lost"),
    ("forgets", "consumer.applied:2:kill", "twice"),
    ("marks-first", "relay.marked:1:kill", "unanswered"),
    ("splits", "consumer.applied:2:kill", "unanswered"),
    ("marks-effects-first", "effect.marked:3:kill", "unkept"),
    ("trusts-names", "directory.aside:2:kill", "damaged"),
    ("writes-aside", "directory.named:1:kill", "orphaned"),
    ("drops", "", "dead"),
]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with own_broker(tmp_path_factory.mktemp("kafka")) as made:
        yield made.bootstrap


@pytest.fixture(scope="module")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with Zygote(MODULE, tmp_path_factory.mktemp("zygote") / "log") as made:
        yield made


async def campaign(
    zygote: Zygote, where: Where, crashes: tuple[str, ...], tasks: int, plant: str | None = None
) -> tuple[Found, list[int]]:
    """Tell the story, kill the service at each point, let it end, check; return also how it ended each time."""
    told = story(tasks, random.Random(SEED))
    service = Service(zygote, where, await begin(where.kafka, told), plant)
    ends = [await asyncio.to_thread(service.run, crash) for crash in (*crashes, "")]
    return await check(where, tasks), ends


async def test_nothing_is_lost_or_applied_twice_however_often_it_is_killed(
    zygote: Zygote, broker: str, tmp_path: Path
) -> None:
    found, ends = await campaign(zygote, in_folder(broker, tmp_path), CRASHES, 50)
    assert found.wrong() == []
    assert ends[-1] == 0
    assert ends.count(-9) == sum("kill" in crash for crash in CRASHES), f"it died at every point: {ends}"


async def test_files_in_s3_are_kept_once_and_none_is_left_that_nobody_names(
    zygote: Zygote, broker: str, minio: MinioServer, tmp_path: Path
) -> None:
    where = replace(in_folder(broker, tmp_path), blobs=f"s3:test-{uuid4().hex[:12]}", env=minio.env)
    found, ends = await campaign(zygote, where, ON_S3, 8)
    assert found.wrong() == []
    assert ends == [-9] * len(ON_S3) + [0]


@pytest.mark.parametrize(("plant", "crash", "wrong"), MUST_FIND, ids=[plant for plant, *_ in MUST_FIND])
async def test_the_checker_finds_planted_bugs(
    zygote: Zygote, broker: str, tmp_path: Path, plant: str, crash: str, wrong: str
) -> None:
    found, _ = await campaign(zygote, in_folder(broker, tmp_path), (crash,), 8, plant)
    assert found.wrong(), f"{plant} broke nothing that the checker sees"
    assert getattr(found, wrong) != getattr(Found(dead=37), wrong)
