"""The monitor's live stream, read by a real WebSocket client."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.harness import ServiceProcess, services
from tests.monitor_desk import Monitor, is_event, is_step, lines, running_monitor
from trainwright.contracts.metric import MetricBatch, MetricPoint

SETTINGS = {"MONITOR_SLOW_SECONDS": "0.5", "MONITOR_SLOW_KEEPS": "50", "MONITOR_HEARTBEAT_SECONDS": "0.7"}


@pytest.fixture(scope="module")
def process(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with services(["monitor"], kafka, tmp_path_factory.mktemp("monitor"), **SETTINGS) as running:
        yield running


@pytest.fixture
async def monitor(process: ServiceProcess, kafka: str) -> AsyncIterator[Monitor]:
    async with running_monitor(process, kafka) as monitor:
        yield monitor


async def test_a_stream_gives_history_then_what_comes_then_the_end(monitor: Monitor) -> None:
    story = monitor.story()
    await story.created()
    await story.logs(1, [1, 2, 3])
    await monitor.until(story, [1, 2, 3])
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe", "metrics": ["loss"]}')
        history = await lines(socket, is_step(3))
        assert [(line["step"], line["metrics"]) for line in history] == [
            (n, {"loss": float(n)}) for n in (1, 2, 3)
        ]
        await story.logs(1, [4], first=3)
        assert [line["step"] for line in await lines(socket, is_step(4), within=2)] == [4]
        await story.finished(1, final_step=5)
        await story.ended()
        await story.logs(1, [5], first=4)  # the topics race: the end is known before the last step
        rest = [line for line in await lines(socket, is_event("end")) if line.get("event") != "heartbeat"]
        assert [line.get("step") for line in rest] == [5, None]
        assert rest[-1]["status"] == "completed"
        await socket.wait_closed()
        assert socket.close_code == 1000


async def test_a_stream_goes_on_at_a_cursor_without_gap_or_repeat(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, range(1, 101))
    await monitor.until(story, lambda steps: len(steps) == 100)
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe"}')
        seen = await lines(socket, is_step(40))
    cursor = seen[-1]["seq"]
    await story.logs(1, range(101, 121), first=100)
    async with monitor.stream(story) as socket:
        await socket.send(json.dumps({"action": "subscribe", "cursor": cursor}))
        rest = await lines(socket, is_step(120))
    assert [line["step"] for line in seen + rest if "step" in line] == list(range(1, 121))


async def test_a_stream_is_told_of_a_rewind(monitor: Monitor) -> None:
    story = monitor.story()
    await story.started(1)
    await story.logs(1, range(1, 11))
    await monitor.until(story, lambda steps: len(steps) == 10)
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe", "metrics": ["loss"]}')
        before = await lines(socket, is_step(10))
        assert not any("event" in line for line in before)
        await story.placed(2)
        await story.started(2, resume_step=6)
        await story.logs(1, [11], first=10)  # a zombie
        await story.logs(2, [7, 8], offset=0.5)
        after = [line for line in await lines(socket, is_step(8)) if line.get("event") != "heartbeat"]
    assert (after[0]["event"], after[0]["attempt"], after[0]["step"]) == ("rewind", 2, 6)
    assert [(line["step"], line["attempt"]) for line in after[1:]] == [(7, 2), (8, 2)]
    async with monitor.stream(story) as socket:  # who comes back from before the rewind is told, too
        await socket.send(json.dumps({"action": "subscribe", "cursor": before[-1]["seq"]}))
        again = [line for line in await lines(socket, is_step(8)) if line.get("event") != "heartbeat"]
    assert [line.get("event") for line in again] == ["rewind", None, None]


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ("not json", "body"),
        ("[]", "action"),
        ('{"action": "subscrib"}', "action"),
        ('{"action": "subscribe", "metrics": "loss"}', "metrics"),
        ('{"action": "subscribe", "cursor": -1}', "cursor"),
        ('{"action": "subscribe", "cursor": 999999999}', "cursor"),
        ('{"action": "subscribe", "metric": ["loss"]}', "metric"),
        (b"\x00\x01", "body"),
    ],
)
async def test_a_bad_message_is_answered_and_the_stream_stays(
    monitor: Monitor, message: str | bytes, path: str
) -> None:
    story = monitor.story()
    await story.logs(1, [1])
    await monitor.until(story, [1])
    async with monitor.stream(story) as socket:
        await socket.send(message)
        (error,) = [line for line in await lines(socket, is_event("error")) if line["event"] == "error"]
        assert error["code"] == "invalid_input"
        assert [field["path"] for field in error["errors"]] in ([path], ["action"])
        await socket.send('{"action": "subscribe"}')
        assert await lines(socket, is_step(1))


async def test_unsubscribed_is_silent_but_alive(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [1])
    await monitor.until(story, [1])
    async with monitor.stream(story) as socket:
        await socket.send('{"action": "subscribe"}')
        await lines(socket, is_step(1))
        await socket.send('{"action": "unsubscribe"}')
        await asyncio.sleep(0.2)
        await story.logs(1, [2], first=1)
        await monitor.until(story, [1, 2])
        assert [line["event"] for line in await lines(socket, is_event("heartbeat"))] == ["heartbeat"]


async def test_an_unknown_task_is_said_on_the_stream(monitor: Monitor) -> None:
    async with monitor.stream(monitor.story()) as socket:
        assert json.loads(await socket.recv())["code"] == "not_found"
        await socket.wait_closed()
        assert socket.close_code == 4404


async def test_a_slow_reader_gets_a_gap_and_not_a_queue(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [0])
    wide = {f"metric-{n:03d}-{'x' * 100}": 0.123456789 for n in range(200)}
    for start in range(1, 1501, 25):
        points = [MetricPoint(n, 0.0, n, {"loss": 1.0, **wide}) for n in range(start, start + 25)]
        await monitor.bus.say(MetricBatch(task_id=story.task_id, attempt=1, points=points))
    await monitor.until(story, lambda steps: len(steps) == 1501)
    async with monitor.stream(story, max_queue=1, compression=None) as socket, monitor.stream(story) as fast:
        await socket.send('{"action": "subscribe"}')
        await fast.send('{"action": "subscribe", "metrics": ["loss"]}')
        assert len(await lines(fast, is_step(1500))) == 1501
        await asyncio.sleep(1.5)  # reads nothing
        found = await lines(socket, is_step(1500), within=30)
    (gap,) = [line for line in found if line.get("event") == "gap"]
    assert gap["seq"] > gap["from"]
    steps = [line["step"] for line in found if "event" not in line]
    assert 50 <= len(steps) < 1500
    assert steps[-50:] == list(range(1451, 1501))
