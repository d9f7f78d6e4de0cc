"""The stream of all public events, on a broker of its own with many partitions."""

import asyncio
import json
import re
import shutil
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from tests.events_desk import Desk, Heard, count, desk, say, versions
from tests.harness import API, Bus, eventually, listening
from tests.kafka_fixture import own_broker
from tests.runtime_kit import MOMENT, task_event
from trainwright.cli.main import app
from trainwright.client import Client
from trainwright.contracts.log import LogBatch, LogLevel, LogRecord, LogStream
from trainwright.contracts.task import TaskStatusChanged
from trainwright.contracts.topics import TASK
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "events.md"
PRODUCTION = {"TRAINWRIGHT_TOPICS": "production", "GATEWAY_HEARTBEAT_SECONDS": "0.5"}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[KafkaProcess]:
    with own_broker(tmp_path_factory.mktemp("kafka")) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(broker: KafkaProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with desk(broker.bootstrap, tmp_path_factory.mktemp("gateway"), **PRODUCTION) as running:
        yield running


@pytest.fixture
async def bus(gateway: Desk, broker: KafkaProcess) -> AsyncIterator[Bus]:
    await gateway.process.ready("down")  # nothing is behind it
    await eventually(lambda: topics_of(broker), within=30, what="topics")
    async with listening(broker.bootstrap) as bus:
        yield bus


async def topics_of(broker: KafkaProcess) -> bool:
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        return TASK.name in await admin.list_topics()
    finally:
        await admin.close()


def of(subjects: list[tuple[str, int]], found: list[tuple[str, int]]) -> None:
    """Check that everything was heard once, and each task's events in their order."""
    assert sorted(found) == sorted(subjects)
    for subject in {subject for subject, _ in subjects}:
        mine = [version for name, version in found if name == subject]
        assert mine == sorted(mine)


async def test_a_stream_gives_history_then_what_comes_whole_events_in_order(gateway: Desk, bus: Bus) -> None:
    said = await say(bus, 1, 40)
    later: list[tuple[str, int]] = []

    def until(found: list[Heard]) -> bool:
        if len(found) == 40:
            bus.background(more())
        return len(found) == 60

    async def more() -> None:
        later.extend(await say(bus, 41, 20))

    found = await gateway.hear(until, start="beginning", topics="task")
    of(said + later, versions(found))
    assert {event.name for event in found} == {"trainwright.task.TaskReady.v1"}
    assert {event.data["partition"] for event in found} > {0}, "several partitions take part"
    assert found[0].data["data"]["task"]["task_id"] == found[0].data["subject"]
    assert [event.data["time"] for event in found[:40]] == sorted(event.data["time"] for event in found[:40])


async def test_who_comes_back_misses_nothing_and_hears_nothing_twice_over_kills_and_replicas(
    gateway: Desk, bus: Bus, broker: KafkaProcess, tmp_path: Path
) -> None:
    begun = (await gateway.hear(count(1), start="beginning", topics="task"))[0].id
    async with gateway.stream(topics="task") as events:
        position = (await anext(events)).id  # said at once, before anything comes
    assert begun != position
    said: list[tuple[str, int]] = []

    async def talk() -> None:
        for first in range(1000, 1300, 20):
            said.extend(await say(bus, first, 20))
            await asyncio.sleep(0.02)

    talking = bus.background(talk())
    heard: list[Heard] = []
    with desk(broker.bootstrap, tmp_path / "replica", **PRODUCTION) as replica:
        for turn in range(6):
            door = (gateway, replica)[turn % 2]
            part: list[Heard] = []
            killed = False
            await door.process.ready("down")
            try:
                async with asyncio.timeout(120), door.stream(position, topics="task") as events:
                    async for event in events:
                        if not event.name:
                            continue
                        part.append(event)
                        if turn == 2 and len(part) == 20:
                            gateway.process.stop(kill=True)
                            killed = True
                        if len(part) == 50 or len(heard) + len(part) == 300:
                            break
            except httpx.HTTPError:
                assert killed
            heard += part
            position = heard[-1].id
            if killed:
                gateway.process.start()  # meanwhile the replica has its turn
        rest = 300 - len(heard)
        if rest:
            heard += await replica.hear(count(rest), position, topics="task")
    await talking
    of(said, versions(heard))


async def test_loud_topics_are_heard_by_who_names_them(gateway: Desk, bus: Bus) -> None:
    task_id = "task-00000000abcd"
    line = LogRecord(seq=0, time=MOMENT, level=LogLevel.INFO, message="hello")
    batch = LogBatch(task_id=task_id, attempt=1, stream=LogStream.STDOUT, records=[line])
    async with gateway.stream() as quiet, gateway.stream(topics="log,task", subject=task_id) as loud:
        await anext(quiet)
        await anext(loud)
        await bus.say_raw(TASK.name, b"no event at all")
        await bus.say(batch)
        await say(bus, 5000, 1)
        first = await named(loud)
        assert (first.name, first.data["subject"]) == ("trainwright.log.LogBatch.v1", task_id)
        assert (await named(quiet)).data["version"] == 5000
        moved = await anext(loud)  # what it does not want moves its position all the same
        assert (moved.name, moved.id != first.id) == ("", True)


async def named(events: AsyncIterator[Heard]) -> Heard:
    async for event in events:
        if event.name:
            return event
    raise AssertionError("the stream ended")


@pytest.mark.parametrize(
    ("query", "path", "said"),
    [
        ({"topics": "taks"}, "topics", "did you mean 'task'?"),
        ({"types": "TaskRedy"}, "types", "did you mean 'TaskReady'?"),
        ({"after": "task:x"}, "after", "no position"),
        ({"start": "begining"}, "start", "`beginning`"),
        ({"topic": "task"}, "topic", "did you mean 'topics'?"),
    ],
)
async def test_a_wrong_question_is_answered_with_the_fix(
    gateway: Desk, bus: Bus, query: dict[str, str], path: str, said: str
) -> None:
    async with gateway.client() as client:
        answer = await client.get("/events", params=query)
    assert answer.status_code == 422, answer.text
    assert [error["path"] for error in answer.json()["errors"]] == [path]
    assert said in answer.text


async def test_key_and_origin_are_checked(gateway: Desk, bus: Bus) -> None:
    async with httpx.AsyncClient(base_url=gateway.process.url) as stranger:
        assert (await stranger.get(f"{API}/events")).status_code == 401
    async with gateway.client(Origin="https://elsewhere.example") as page:
        assert (await page.get("/events")).status_code == 403


async def test_the_guides_snippet_and_the_command_line_follow(
    gateway: Desk, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRAINWRIGHT_URL", gateway.process.url)
    monkeypatch.setenv("TRAINWRIGHT_API_KEY", gateway.key)
    (snippet,) = re.findall(r"```python\n(from trainwright.*?)```", GUIDE.read_text(), re.DOTALL)
    await bus.say(TaskStatusChanged(task=task_event(3, 7000).task))
    begun = [sys.executable, "-c", snippet]
    following = await asyncio.create_subprocess_exec(*begun, stdout=asyncio.subprocess.PIPE)
    try:
        assert following.stdout is not None
        line = (await asyncio.wait_for(following.stdout.readline(), 60)).decode()
    finally:
        following.kill()
        await following.wait()
    position, kind, status = line.split()
    assert (kind, status) == ("trainwright.task.TaskStatusChanged.v1", "pending")
    await say(bus, 7001, 2)
    words = ["events", "follow", "--after", position, "--topic", "task", "--limit", "2"]
    shown = await asyncio.to_thread(CliRunner().invoke, app, words)
    assert "task.TaskReady.v1" in shown.output, repr(shown.exception)
    whole = await asyncio.to_thread(CliRunner().invoke, app, [*words, "--json"])
    found = [json.loads(row) for row in whole.output.splitlines()]
    assert sorted(row["version"] for row in found) == [7001, 7002]


async def test_a_client_comes_back_where_it_was(gateway: Desk, bus: Bus) -> None:
    said = await say(bus, 8000, 6)
    found: list[tuple[str, int]] = []
    with Client(gateway.process.url, gateway.key) as client:
        events = client.events(topics=["task"], start="beginning")
        async with asyncio.timeout(120):
            while len(found) < 6:
                event = await asyncio.to_thread(next, events)
                if event.is_event and event.data["version"] >= 8000:
                    found.append((event.data["subject"], event.data["version"]))
                if len(found) == 3:
                    gateway.process.stop(kill=True)
                    gateway.process.start()
        events.close()  # type: ignore[attr-defined]
    of(said, found)
    await gateway.process.ready("down")


async def test_a_reader_that_stops_reading_holds_up_nobody_and_misses_nothing(gateway: Desk, bus: Bus) -> None:
    port = int(gateway.process.url.rpartition(":")[2])
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", port))
        head = f"GET {API}/events?topics=task HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {gateway.key}\r\n\r\n"
        slow.sendall(head.encode())
        assert b"200" in slow.recv(4096)
        async with gateway.stream(topics="task") as events:
            await anext(events)
            said = await say(bus, 20_000, 120, kind="x" * 45_000)  # 5 MB: more than every buffer between
            found = [await named(events) for _ in range(120)]
        of(said, versions(found))
        text = b""
        slow.settimeout(30)
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)  # from now on it reads as fast as it can
        while b'"version":20119' not in text[-120_000:]:
            text += slow.recv(65_536)
    slowly = [int(part.partition(b",")[0]) for part in text.split(b'"version":')[1::2]]
    assert {version for version in slowly if version >= 20_000} >= set(range(20_000, 20_120))


async def test_what_is_not_kept_any_more_is_said(gateway: Desk, bus: Bus, broker: KafkaProcess) -> None:
    await say(bus, 6000, 40)
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        await admin.delete_records({TopicPartition(TASK.name, 0): RecordsToDelete(before_offset=3)})
    finally:
        await admin.close()
    (gap, after) = await gateway.hear(count(2), "task:1-0-0-0-0-0", topics="task")
    assert (gap.name, gap.data["reason"]) == ("gap", "expired")
    assert (gap.data["topic"], gap.data["partition"], gap.data["from"], gap.data["to"]) == (TASK.name, 0, 1, 3)
    assert after.name != "gap"
    again = await gateway.hear(count(1), gap.id, topics="task")
    assert again[0] == after


async def test_without_kafka_a_stream_waits_and_a_wiped_log_is_a_gap(
    gateway: Desk, bus: Bus, broker: KafkaProcess
) -> None:
    await bus.close()
    async with asyncio.timeout(120), gateway.stream(topics="task") as events:
        await anext(events)
        await asyncio.to_thread(broker.stop)
        assert (await named(events)).name == "waiting"
        shutil.rmtree(broker.folder)
        await asyncio.to_thread(broker.start)
        await asyncio.to_thread(broker.wait_ready)
        await Kafka(RuntimeSettings(kafka=broker.bootstrap, topics="production")).ensure_topics()
        gap = await named(events)
        assert (gap.name, gap.data["reason"]) == ("gap", "reset")
        async with listening(broker.bootstrap) as anew:
            said = await say(anew, 1, 3)
            assert versions([await named(events) for _ in range(3)]) == said
