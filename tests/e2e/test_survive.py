"""A run that is paused, killed and moved ends as one that was left alone: the same bits, the same curve.

The reference is the same document, trained without interruption on the same platform.
"""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.platform_up import Platform, platform, submit
from tests.e2e.test_story import poll, wait

REPOSITORY = Path(__file__).parents[2]
STEPS = 90


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    with platform(tmp_path_factory.mktemp("survive") / "home", workers=2) as found:
        yield found


@pytest.fixture
def api(up: Platform) -> Iterator[httpx.Client]:
    with up.client() as client:
        yield client


def forecast(**changes: Any) -> dict[str, Any]:
    """Return a document that trains for some seconds and saves every 10 steps."""
    return {
        "recipe": "forecast",
        "parameters": {
            "mode": "global",
            "max_steps": STEPS,
            "horizon": 4,
            "origins": 1,
            "channels": 8,
            "seed": 3,
            "checkpoint_every": 10,
        },
        "data": {
            "path": str(REPOSITORY / "examples/data/walmart_sales_weekly.csv"),
            "time": "Date",
            "target": "Weekly_Sales",
            "product": "Dept",
            "store": "Store",
        },
        **changes,
    }


def what_is_left(api: httpx.Client, task_id: str) -> dict[str, str]:
    """Return the hashes of the files that the training itself determines."""
    found = poll(lambda: api.get("/models", params={"task_id": task_id}).json()["models"], 30, "a model version")
    files = found[0]["files"]
    return {name: files[name]["sha256"] for name in ("model.safetensors", "forecasts.csv", "future.csv")}


def curve(api: httpx.Client, task_id: str, name: str) -> list[Any]:
    """Return every visible point of a metric, once all steps are there."""
    path = f"/tasks/{task_id}/metrics"

    def complete() -> list[Any] | None:
        points = api.get(path, params={"name": name}).json().get("points", [])
        return list(points) if points and points[-1][0] == STEPS else None

    found: list[Any] = poll(complete, 15, f"the last point of {name}")
    return found


def at_step(api: httpx.Client, task_id: str, step: int) -> dict[str, Any]:
    """Return the task once it has come to a step."""

    def reached() -> dict[str, Any] | None:
        task = dict(api.get(f"/tasks/{task_id}").json())
        assert task["status"] not in ("completed", "failed"), task
        return task if task["status"] == "running" and task["progress"]["current_step"] >= step else None

    found: dict[str, Any] = poll(reached, 60, f"step {step}")
    return found


def processes_of(home: Path, task_id: str) -> list[psutil.Process]:
    """Return the processes of a task's run: its shim and everything below."""
    found = []
    for process in psutil.process_iter():
        try:
            told = process.environ().get("TRAINWRIGHT_RUN_ID", "")
        except psutil.Error:
            continue
        if told.startswith(f"{task_id}/"):
            found.append(process)
    return found


@pytest.fixture(scope="module")
def reference(up: Platform) -> dict[str, Any]:
    with up.client() as api:
        task_id = submit(api, forecast())
        assert wait(api, task_id)["status"] == "completed"
        return {"files": what_is_left(api, task_id), "loss": curve(api, task_id, "loss")}


def test_paused_and_resumed_it_ends_the_same(api: httpx.Client, reference: dict[str, Any]) -> None:
    task_id = submit(api, forecast())
    at_step(api, task_id, 30)
    answer = api.post(f"/tasks/{task_id}/pause", params={"wait": 30}).json()
    assert (answer["status"], answer["phase"]) == ("paused", "held"), answer
    task = api.get(f"/tasks/{task_id}").json()
    assert task["checkpoints"][0]["kind"] == "stop"
    assert not [worker for worker in api.get("/workers").json()["workers"] if worker["attempts"]]
    assert api.post(f"/tasks/{task_id}/start").status_code == 409

    assert api.post(f"/tasks/{task_id}/resume", params={"wait": 30}).json()["status"] == "running"
    task = wait(api, task_id)
    assert task["status"] == "completed", task
    assert task["retries_used"] == 0
    resumed = task["attempts"][1]
    assert resumed["resume_step"] == task["attempts"][0]["final_step"], "not a step was trained twice"
    assert what_is_left(api, task_id) == reference["files"]
    assert curve(api, task_id, "loss") == reference["loss"]


def test_killed_on_one_worker_it_goes_on_on_another(
    up: Platform, api: httpx.Client, reference: dict[str, Any]
) -> None:
    task_id = submit(api, forecast(retry={"unknown": {"delay": 0}}))
    first = at_step(api, task_id, 35)["worker_id"]
    poll(lambda: api.get(f"/tasks/{task_id}").json()["checkpoints"], 10, "a checkpoint")
    for process in processes_of(up.home, task_id):
        process.send_signal(signal.SIGKILL)
    poll(lambda: api.get(f"/tasks/{task_id}").json()["attempt"] == 2, 30, "a second attempt")
    at_step(api, task_id, 60)
    for process in processes_of(up.home, task_id):
        if process.cmdline()[1:2] != ["-I"]:  # the training only; its shim tells
            os.kill(process.pid, signal.SIGKILL)
    task = wait(api, task_id)
    assert task["status"] == "completed", task
    assert task["attempt"] == 3
    assert [attempt["failure_class"] for attempt in task["attempts"]] == ["worker_lost", "unknown", None]
    assert all(attempt["resume_step"] for attempt in task["attempts"][1:]), task["attempts"]
    assert first is not None
    assert what_is_left(api, task_id) == reference["files"]
    assert curve(api, task_id, "loss") == reference["loss"]


def test_what_runs_when_the_platform_goes_down_goes_on_at_the_next_up(
    up: Platform, reference: dict[str, Any]
) -> None:
    with up.client() as api:
        task_id = submit(api, forecast())
        at_step(api, task_id, 20)
    up.down()
    assert processes_of(up.home, task_id) == []
    up.up()
    with up.client() as api:
        task = wait(api, task_id)
        assert task["status"] == "completed", task
        assert task["attempts"][1]["resume_step"] >= 20
        assert what_is_left(api, task_id) == reference["files"]
        assert curve(api, task_id, "loss") == reference["loss"]
