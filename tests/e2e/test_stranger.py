"""Everything on the topics is as `asyncapi.json` says, and enough to know what the API knows."""

import ast
import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from examples import rebuild
from examples.rebuild import Message, State
from tests.e2e import stranger
from tests.e2e.platform_up import FINAL, Platform, administer, platform, script, submit
from tests.e2e.stranger import Strange, Stranger
from tests.patience import patient

TASK, QUEUE, ATTEMPT, WORKER = (f"trainwright.{noun}.v1" for noun in ("task", "queue", "attempt", "worker"))
METRIC, LOG, RESULT, DEAD = (f"trainwright.{noun}.v1" for noun in ("metric", "log", "result", "dead"))

COUNT = """
import os, sys, time
import trainwright
run = trainwright.init()
total = int(sys.argv[1 if os.environ["TRAINWRIGHT_RUN_ID"].endswith("/1") else -1])
for step in range(total):
    if run.should_stop():
        break
    run.log(step, {"loss": 1 / (step + 1), "odd": float("nan")}, total_steps=total)
    if step == 3:
        run.checkpoint(step, steps=[step])
    print("step", step)
    time.sleep(0.05)
(run.output / "answer.txt").write_text("42")
"""
STEPS = """
import os, signal, sys, time
import trainwright

run = trainwright.init()
first = os.environ["TRAINWRIGHT_RUN_ID"].endswith("/1")
state = {"total": 0}
for step in run.steps(60, checkpoint_every=5, state=state):
    run.log(step, {"loss": 1 / (step + 1)})
    print("step", step)
    time.sleep(0.05)
    if first and sys.argv[1:] == ["dies"] and step == 18:
        os.kill(os.getpid(), signal.SIGKILL)
"""
COMPLETED = ("completed", "again", "interrupted", "paused", "killed")
BROKEN = "x = 1\ny = x / 0\n"
DIES_ONCE = """
import os, signal
if os.environ["TRAINWRIGHT_RUN_ID"].endswith("/1"):
    os.kill(os.getpid(), signal.SIGKILL)
print("the second time it works")
"""


@dataclass(slots=True)
class Story:
    """A platform on which something has happened."""

    up: Platform
    tasks: dict[str, str]

    @property
    def kafka(self) -> str:
        return str(json.loads((self.up.home / "state.json").read_text())["kafka"])


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    folder = tmp_path_factory.mktemp("stranger")
    with platform(folder / "home") as up:
        with up.client() as api:
            tasks = {
                "completed": submit(api, script(folder / "count.py", COUNT, "20")),
                "failed": submit(api, script(folder / "broken.py", BROKEN)),
                "again": submit(api, {**script(folder / "dies.py", DIES_ONCE), "max_retries": 1}),
                "cancelled": submit(api, script(folder / "long.py", COUNT, "100000")),
                "paused": submit(api, script(folder / "steps.py", STEPS)),
                "killed": submit(api, {**script(folder / "killed.py", STEPS, "dies"), "max_retries": 1}),
            }
            unstarted = api.post("/tasks", json={"config": script(folder / "no.py", "")})
            tasks["unstarted"] = unstarted.json()["task_id"]
            wait(api, tasks["cancelled"], lambda task: task["progress"]["current_step"] > 3)
            api.post(f"/tasks/{tasks['cancelled']}/cancel").raise_for_status()
            wait(api, tasks["paused"], lambda task: task["progress"]["current_step"] > 7)
            assert api.post(f"/tasks/{tasks['paused']}/pause", params={"wait": 30}).json()["status"] == "paused"
            api.post(f"/tasks/{tasks['paused']}/resume").raise_for_status()
            for name in ("completed", "failed", "cancelled", "paused", "killed"):
                wait(api, tasks[name], is_final)
            tasks["interrupted"] = submit(api, script(folder / "slow.py", COUNT, "100000", "20"))
            wait(api, tasks["interrupted"], lambda task: task["progress"]["current_step"] > 3)
        up.down()
        up.up()
        with up.client() as api:
            for name in ("interrupted", "again"):
                wait(api, tasks[name], is_final)
            report(api, tasks["completed"])
            administer(api, queued=tasks["unstarted"], over=tasks["failed"])
        yield Story(up, tasks)


TOLD_ELSEWHERE = {"WorkerLost", "DeadLettered", "WorkerCordoned", "TaskParametersChanged", "UpdateParameters"} | {
    *("ParametersApplied", "ParametersRejected", "TaskResourcesChanged"),
    *("MemberEnded", "MemberLogBatch", "ConcludeAttempt"),
}
"""What needs a broken machine, a run that takes its parameters over, several workers: their own tests tell it."""


def wait(api: httpx.Client, task_id: str, reached: Callable[[dict[str, Any]], bool]) -> None:
    deadline = patient(90)
    while not reached(task := api.get(f"/tasks/{task_id}").json()):
        assert time.monotonic() < deadline, task
        time.sleep(0.1)


def report(api: httpx.Client, task_id: str) -> None:
    deadline = patient(90)
    while (answer := api.get(f"/tasks/{task_id}/report")).status_code != 200:
        assert time.monotonic() < deadline, answer.text


def is_final(task: dict[str, Any]) -> bool:
    return task["status"] in FINAL


def read(story: Story) -> list[Message]:
    """Return every record of every topic, understood."""
    reader = Stranger()
    return [reader.understand(record) for record in asyncio.run(reader.read(story.kafka))]


def agree(story: Story, differences: Callable[[State, httpx.Client], list[Any]]) -> State:
    """Wait until a stranger's state and the API's do not differ: events follow the answers by milliseconds."""
    deadline = patient(20)
    with story.up.client() as api:
        while found := differences(state := State().fold(read(story)), api):
            assert time.monotonic() < deadline, found
            time.sleep(0.5)
    return state


@pytest.mark.parametrize("module", [rebuild, stranger], ids=["the example", "the strict one"])
def test_the_stranger_knows_nothing_of_ours(module: ModuleType) -> None:
    assert module.__file__ is not None
    tree = ast.parse(Path(module.__file__).read_text())
    names = [name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names]
    names += [node.module or "." for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    outside = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert outside == ({"aiokafka"} if module is rebuild else {"aiokafka", "jsonschema", "examples"})


def test_every_record_is_known_and_valid(story: Story) -> None:
    messages = read(story)
    seen = {message.title for message in messages}
    told = {kind["title"] for kinds in Stranger().kinds.values() for kind in kinds.values()}
    assert told - seen <= TOLD_ELSEWHERE, "a story that tells of nearly everything"
    said: dict[tuple[str, str], Message] = {}
    for message in messages:
        first = said.setdefault((message.headers["ce_source"], message.headers["ce_id"]), message)
        same = (first.topic, first.title, first.payload) == (message.topic, message.title, message.payload)
        assert same, "source and id identify an event"


def test_tasks_are_what_the_log_says(story: Story) -> None:
    def differences(state: State, api: httpx.Client) -> list[Any]:
        found: list[Any] = []
        tasks = state.of(TASK)
        assert {(task_id,) for task_id in story.tasks.values()} == set(tasks)
        for (task_id,), task in tasks.items():
            view = api.get(f"/tasks/{task_id}").json()
            found += [(task_id, name, task[name], view[name]) for name in task if task[name] != view[name]]
            attempt = state.of(ATTEMPT).get((task_id,))
            if attempt is not None:
                found += [] if attempt["latest_metrics"] == view["latest_metrics"] else [(task_id, attempt, view)]
        return found

    state = agree(story, differences)
    by_name = {name: state.of(TASK)[(task_id,)] for name, task_id in story.tasks.items()}
    assert {name: task["status"] for name, task in by_name.items()} == {
        "completed": "completed",
        "failed": "failed",
        "again": "completed",
        "cancelled": "cancelled",
        "interrupted": "completed",
        "paused": "completed",
        "killed": "completed",
        "unstarted": "pending",
    }
    assert by_name["failed"]["failure"]["failure_class"] == "user_error"
    assert by_name["again"]["retries_used"] == 1
    assert (by_name["interrupted"]["attempt"], by_name["interrupted"]["losses"]) == (2, 1)
    assert [by_name[name]["attempt"] for name in ("paused", "killed")] == [2, 2]


def test_every_attempt_is_on_the_log(story: Story) -> None:
    """Who wants all attempts, not the newest, takes task and attempt as identity."""

    def differences(state: State, api: httpx.Client) -> list[Any]:
        shown = {}
        for task_id in story.tasks.values():
            for row in api.get(f"/tasks/{task_id}").json()["attempts"]:
                assert row.pop("members") == []
                shown[task_id, row.pop("attempt")] = row
        told = {key: in_short(document) for key, document in state.attempts.items()}
        return [] if told == shown else [told, shown]

    agree(story, differences)


def in_short(attempt: dict[str, Any]) -> dict[str, Any]:
    failure = attempt["failure"] or {}
    names = ("worker_id", "started_at", "ended_at", "outcome", "resume_step", "final_step")
    why = {"failure_class": failure.get("failure_class"), "message": failure.get("message")}
    return {name: attempt[name] for name in names} | why


def test_models_are_what_the_log_says(story: Story) -> None:
    def differences(state: State, api: httpx.Client) -> list[Any]:
        shown = {model["model_id"]: model for model in api.get("/models").json()["models"]}
        told = {identity[0]: model for identity, model in state.of(RESULT).items()}
        waits = [model for model in shown.values() if model["report"] is None]
        return waits or ([] if shown == told else [shown, told])

    models = agree(story, differences).of(RESULT).values()
    completed = {story.tasks[name] for name in COMPLETED}
    assert {model["task_id"] for model in models} == completed


def test_workers_and_what_is_free_are_what_the_log_says(story: Story) -> None:
    def differences(state: State, api: httpx.Client) -> list[Any]:
        shown = {worker["worker_id"]: worker for worker in api.get("/workers").json()["workers"]}
        told = state.of(WORKER)
        assert {worker_id for (worker_id,) in told} == set(shown)
        found: list[Any] = []
        for (worker_id,), worker in told.items():
            view = shown[worker_id]
            names = ("hostname", "cpus", "memory", "gpus", "registered_at")
            found += [(name, worker[name], view[name]) for name in names if worker[name] != view[name]]
            state_told = "stopped" if worker["stopped"] else "draining" if worker["draining"] else "alive"
            found += [] if state_told == view["state"] else [(state_told, view["state"])]
            placed = [p for p in state.of(QUEUE).values() if p["state"] == "assigned"]
            refs = [{"task_id": p["task_id"], "attempt": p["attempt"]} for p in placed]
            found += [] if refs == view["attempts"] else [(refs, view["attempts"])]
            free = worker["cpus"] - sum(p["slots"]["cpu"] for p in placed)
            found += [] if free == view["free"]["cpu"] else [(free, view["free"])]
        return found

    assert len(agree(story, differences).of(WORKER)) == 1, "one worker, in two incarnations"


@pytest.mark.parametrize("name", ["completed", "cancelled", "interrupted", "paused", "killed"])
def test_metrics_and_logs_are_what_the_log_says(story: Story, name: str) -> None:
    task_id = story.tasks[name]

    def differences(state: State, api: httpx.Client) -> list[Any]:
        newest = state.of(TASK)[(task_id,)]["attempt"]
        loss = [list(point) for point in state.curve(task_id, "loss")]
        shown = api.get(f"/tasks/{task_id}/metrics", params={"name": "loss", "max_points": 5000}).json()["points"]
        found: list[Any] = [] if loss == shown else [loss, shown]
        lines = [
            record["message"]
            for attempt in range(1, newest + 1)
            for record in state.items[LOG, (task_id, attempt, "stdout")].values()
        ]
        entries = api.get(f"/tasks/{task_id}/logs", params={"limit": 1000}).json()["entries"]
        printed = [entry["message"] for entry in entries if entry["extra"]["stream"] == "stdout"]
        return found + ([] if sorted(lines) == sorted(printed) else [lines, printed])

    agree(story, differences)


def test_repeats_and_another_order_change_nothing(story: Story) -> None:
    """Delivery is at least once: a log that says everything twice, shuffled, tells the same."""
    messages = [message for message in read(story) if message.kind["x-repeats"]["rule"] != "latest"]
    once = State().fold(messages)
    twice = messages * 2
    random.Random(1).shuffle(twice)
    again = State().fold(twice)
    assert again.documents == once.documents
    assert {key: sorted(items) for key, items in again.items.items()} == {
        key: sorted(items) for key, items in once.items.items()
    }
    assert again.repeats > once.repeats


def test_the_example_subscriber_tells_the_news_once_and_ends_quietly(story: Story) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "subscribe.py"
    state, news = State(), list[tuple[str, str]]()
    for message in read(story):
        if message.topic in (TASK, RESULT):
            before = state.repeats
            if state.fold([message]).repeats == before:
                news.append((message.title, message.identity[0]))
    process = subprocess.Popen(
        [sys.executable, str(example), story.kafka], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        lines = [process.stdout.readline().split(maxsplit=3) for _ in news]
        assert sorted((name, subject) for _, name, subject, _ in lines) == sorted(news)
        completed = [line for line in lines if line[3].strip() == "completed"]
        assert {line[2] for line in completed} == {story.tasks[n] for n in COMPLETED}
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=90)
        assert (process.returncode, errors) == (0, "")
    finally:
        process.kill()
        process.wait()


def test_the_example_prints_what_the_api_knows(story: Story) -> None:
    done = subprocess.run(
        [sys.executable, rebuild.__file__, story.kafka], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    state = State().fold(read(story))
    assert told["tasks"].keys() == set(story.tasks.values())
    assert told["models"].keys() == {model_id for (model_id,) in state.of(RESULT)}
    for name in ("paused", "killed"):
        steps = [step for step, _ in told["curves"][story.tasks[name]]["loss"]]
        assert steps == list(range(1, 61)), "one curve over the attempts, every step once"
        assert told["placements"][story.tasks[name]]["attempt"] == 2
        assert f"{story.tasks[name]}/1" in told["attempts"]


def test_openapi_is_served_as_it_is_committed(story: Story) -> None:
    committed = json.loads((rebuild.DOCUMENT.parent / "openapi.json").read_text())
    with story.up.client() as api:
        served = api.get(str(api.base_url).split("/api/")[0] + "/openapi.json").json()
    assert served == committed


def test_z_a_record_that_the_document_does_not_have_is_noticed_and_its_dead_letter_is_known(story: Story) -> None:
    """The checks above can fail. Last, because it spoils the log."""
    sent = asyncio.run(say_nonsense(story.kafka))
    deadline = patient(20)
    letters: list[Message] = []
    while len(letters) < 1:
        assert time.monotonic() < deadline
        reader, letters, strange = Stranger(), [], []
        for record in asyncio.run(reader.read(story.kafka)):
            try:
                message = reader.understand(record)
                letters += [message] if message.topic == DEAD else []
            except Strange:
                strange.append((record.topic, record.partition, record.offset))
        assert sorted(strange) == sorted(sent)
    with story.up.client() as api:
        told = [letter.payload["letter"] for letter in letters]
        assert told == api.get("/dead", params={"consumer": "log"}).json()["dead_letters"]
        assert {(letter["topic"], letter["partition"], letter["offset"]) for letter in told} <= set(sent)


async def say_nonsense(bootstrap: str) -> list[tuple[str, int, int]]:
    """Put on the topics what nobody told of: no JSON, an unknown kind, an unknown field."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": "1",
        "ce_type": "trainwright.log.LogBatch.v1",
        "ce_source": "/services/trainer_worker",
        "ce_subject": "task-000000000000",
        "ce_time": "2025-01-01T00:00:00.000000Z",
        "ce_attempt": "1",
        "content-type": "application/json",
    }
    batch = {
        "task_id": "task-000000000000",
        "attempt": 1,
        "stream": "stdout",
        "records": [{"seq": 0, "time": "2025-01-01T00:00:00Z", "level": "INFO", "message": "x"}],
    }
    nonsense: list[tuple[dict[str, str], bytes]] = [
        (headers, b"no JSON"),
        ({**headers, "ce_type": "trainwright.log.LogsForgotten.v1"}, b"{}"),
        (headers, json.dumps({**batch, "added": 1}).encode()),
        ({**headers, "ce_attempt": "2"}, json.dumps(batch).encode()),
        ({**headers, "ce_more": "1"}, json.dumps(batch).encode()),
    ]
    sent = []
    async with AIOKafkaProducer(bootstrap_servers=bootstrap) as producer:
        for each, value in nonsense:
            encoded = [(name, text.encode()) for name, text in each.items()]
            at = await producer.send_and_wait(LOG, value, key=headers["ce_subject"].encode(), headers=encoded)
            sent.append((at.topic, at.partition, at.offset))
    return sent
