"""The monitor as a process of its own: told by hand over real Kafka, asked over HTTP."""

import json
import math
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ServiceProcess, services
from tests.monitor_desk import Monitor, lines, running_monitor
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.queue import WorkerLost


@pytest.fixture(scope="module")
def process(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServiceProcess]:
    with services(["monitor"], kafka, tmp_path_factory.mktemp("monitor")) as running:
        yield running


@pytest.fixture
async def monitor(process: ServiceProcess, kafka: str) -> AsyncIterator[Monitor]:
    async with running_monitor(process, kafka) as monitor:
        yield monitor


async def test_a_run_is_seen_by_step_and_in_short(monitor: Monitor) -> None:
    story = monitor.story()
    await story.created()
    await story.logs(1, range(1, 6))
    assert await monitor.until(story, [1, 2, 3, 4, 5]) == [1, 2, 3, 4, 5]
    assert await monitor.steps(story, start_step=2, end_step=3) == [2, 3]
    overview = (await monitor.ask(story)).json()
    assert overview == {"task_id": story.task_id, "latest": {"loss": 5.0, "lr": 0.1}, "names": ["loss", "lr"]}


async def test_a_task_without_metrics_is_empty_and_an_unknown_one_is_not_found(monitor: Monitor) -> None:
    story = monitor.story()
    assert (await monitor.ask(story)).status_code == 404
    await story.created()
    answer = await monitor.ask(story)  # at once: what was created a moment ago is waited for
    assert answer.status_code == 200, answer.text
    assert answer.json()["names"] == []
    assert (await monitor.ask(story, name="loss")).json()["points"] == []
    story.task_id = "no such task"
    assert (await monitor.ask(story)).status_code == 404


async def test_repeats_are_stored_once(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, range(10))
    await story.logs(1, range(10))
    await story.logs(1, range(5, 12), first=5)
    assert await monitor.until(story, lambda steps: 11 in steps) == list(range(12))


async def test_a_lost_worker_that_still_sends_is_not_shown(monitor: Monitor) -> None:
    story = monitor.story()
    await story.placed(1)
    await story.started(1)
    await story.logs(1, range(10))
    await monitor.until(story, list(range(10)))
    await story.placed(1, WorkerLost)
    await story.placed(2)
    await story.started(2)
    await story.logs(2, range(3), offset=0.5)
    await monitor.until(story, [0, 1, 2])
    await story.logs(1, range(10, 20), first=10)
    await story.logs(2, range(3, 5), first=3)
    assert await monitor.until(story, lambda steps: 4 in steps) == [0, 1, 2, 3, 4]
    points = (await monitor.ask(story, name="loss")).json()["points"]
    assert points[2] == [2, 2.5]


async def test_a_resumed_attempt_keeps_what_came_before(monitor: Monitor) -> None:
    story = monitor.story()
    await story.started(1)
    await story.logs(1, range(1, 31))
    await story.started(2, resume_step=20)
    await story.logs(2, range(21, 26), offset=0.5)
    assert await monitor.until(story, list(range(1, 26))) == list(range(1, 26))


async def test_a_run_that_moved_shows_the_same_history_as_one_that_did_not(monitor: Monitor) -> None:
    """Killed past its checkpoints twice, the older attempts still sending, their words mixed and said again."""
    plain, moved = monitor.story(), monitor.story()
    await plain.placed(1)
    await plain.started(1)
    await plain.logs(1, range(1, 61))
    await monitor.until(plain, list(range(1, 61)))
    wanted = (await monitor.ask(plain, name="loss")).json()

    await moved.placed(1)
    await moved.started(1)
    await moved.logs(1, range(1, 28))
    await moved.saved(1, 2)
    await moved.placed(1, WorkerLost)
    await moved.placed(2)
    await moved.logs(1, range(28, 34), first=27, offset=0.5)  # nobody told the lost worker
    await moved.started(2, resume_step=20)
    await moved.logs(2, range(21, 45))
    await moved.logs(1, range(34, 61), first=33, offset=0.5)
    await moved.saved(2, 2, resume_step=20)
    await moved.placed(3)
    await moved.saved(3, 2, resume_step=40)  # its start was lost: this says as much
    await moved.logs(3, range(41, 51))
    await moved.logs(2, range(45, 61), first=24, offset=0.25)
    await moved.logs(1, range(1, 61), offset=0.5)
    await moved.logs(3, range(41, 61))
    assert await monitor.until(moved, lambda steps: 60 in steps) == list(range(1, 61))
    found = (await monitor.ask(moved, name="loss")).json()
    assert found["points"] == wanted["points"]
    assert (await monitor.ask(moved)).json()["latest"] == (await monitor.ask(plain)).json()["latest"]
    async with monitor.stream(moved) as socket:
        await socket.send(json.dumps({"action": "subscribe", "metrics": ["loss"]}))
        shown = await lines(socket, lambda line: line.get("step") == 60 and "event" not in line)
    assert _folded(shown) == [[step, float(step)] for step in range(1, 61)]


def _folded(shown: list[dict[str, Any]]) -> list[list[float]]:
    """Return what a reader of the stream holds: a rewind takes back what lies above its step."""
    points: dict[int, float] = {}
    for line in shown:
        if line.get("event") == "rewind":
            points = {step: value for step, value in points.items() if step <= line["step"]}
        elif "metrics" in line:
            points[line["step"]] = line["metrics"]["loss"]
    return [[step, value] for step, value in sorted(points.items())]


async def test_a_long_series_is_reduced_and_keeps_its_ends_and_its_nan(monitor: Monitor) -> None:
    story = monitor.story()
    points = [MetricPoint(n, 0.0, n, {"loss": math.sin(n / 100)}) for n in range(5000)]
    points[2500] = MetricPoint(2500, 0.0, 2500, {"loss": math.nan})
    points[2600] = MetricPoint(2600, 0.0, 2600, {"loss": math.inf})
    for start in range(0, 5000, 1000):
        batch = MetricBatch(task_id=story.task_id, attempt=1, points=points[start : start + 1000])
        await monitor.bus.say(batch)
    await monitor.until(story, lambda steps: len(steps) == 5000)
    found = (await monitor.ask(story, name="loss", max_points=100)).json()["points"]
    assert 50 <= len(found) <= 100
    assert (found[0][0], found[-1][0]) == (0, 4999)
    assert [2500, "NaN"] in found
    assert [2600, "Infinity"] in found
    for most in (2, 3, 4, 5):
        few = await monitor.steps(story, max_points=most)
        assert 2 <= len(few) <= most
        assert (few[0], few[-1]) == (0, 4999)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ({"name": "loss", "start_step": "ten"}, "start_step"),
        ({"name": "loss", "start_step": -1}, "start_step"),
        ({"name": "loss", "end_step": -5}, "end_step"),
        ({"name": "loss", "start_step": 10, "end_step": 9}, "end_step"),
        ({"name": "loss", "max_points": 1}, "max_points"),
        ({"name": "loss", "max_points": 1_000_000}, "max_points"),
        ({"name": "loss", "start_step": 2**70}, "start_step"),
        ({"name": "x" * 300}, "name"),
        ({"max_point": 5}, "max_point"),
    ],
)
async def test_bad_questions_name_the_field(monitor: Monitor, query: dict[str, Any], field: str) -> None:
    story = monitor.story()
    await story.created()
    answer = await monitor.ask(story, **query)
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["path"] for error in answer.json()["errors"]] == [field]


async def test_an_empty_parameter_is_one_left_out(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [1, 2])
    await monitor.until(story, [1, 2])
    answer = await monitor.ask(story, name="loss", start_step="", end_step="", max_points="")
    assert answer.json()["points"] == [[1, 1.0], [2, 2.0]]


async def test_an_unknown_name_is_told_the_nearest(monitor: Monitor) -> None:
    story = monitor.story()
    await story.logs(1, [1])
    await monitor.until(story, [1])
    answer = await monitor.ask(story, name="los")
    assert answer.status_code == 404
    assert "did you mean 'loss'?" in answer.json()["detail"]


async def test_all_is_there_after_a_kill(kafka: str, tmp_path: Path, monitor: Monitor) -> None:
    story = monitor.story()
    await story.created()
    await story.logs(1, range(50))
    await monitor.until(story, lambda steps: len(steps) == 50)
    monitor.process.stop(kill=True)
    await story.logs(1, range(40, 60), first=40)
    monitor.process.start()
    await monitor.process.ready()
    assert await monitor.until(story, lambda steps: 59 in steps) == list(range(60))
