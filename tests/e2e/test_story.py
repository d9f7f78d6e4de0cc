"""The whole story over real Kafka, with all services in one process and with each alone."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client

from tests.e2e.platform_up import FINAL, Platform, platform, script, submit
from tests.patience import patient

REPOSITORY = Path(__file__).parents[2]

COUNTING = """
import sys, time
import trainwright

steps = int(sys.argv[1])
run = trainwright.init()
print("counting to", steps)
for step in range(steps):
    if run.should_stop():
        print("asked to stop at", step)
        break
    run.log(step, {"loss": 1 / (step + 1), "step_twice": 2.0 * step}, total_steps=steps)
    time.sleep(0.02)
(run.output / "answer.txt").write_text("42")
print("a warning", file=sys.stderr)
"""


@pytest.fixture(scope="module", params=["one process", "a process each"])
def up(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    home = tmp_path_factory.mktemp("story") / "home"
    with platform(home, separate=request.param == "a process each") as found:
        yield found


@pytest.fixture
def api(up: Platform) -> Iterator[httpx.Client]:
    with up.client() as client:
        yield client


def wait(
    api: httpx.Client, task_id: str, statuses: tuple[str, ...] = FINAL, within: float = 120
) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        task = dict(api.get(f"/tasks/{task_id}").json())
        return task if task["status"] in statuses else None

    task: dict[str, Any] = poll(reached, within, f"{task_id} to be one of {statuses}")
    return task


def poll(check: Callable[[], Any], within: float, what: str) -> Any:
    deadline = patient(within)
    while not (found := check()):
        assert time.monotonic() < deadline, f"waited {within} s for {what}"
        time.sleep(0.05)
    return found


def test_a_script_trains_and_leaves_metrics_logs_a_model_and_a_report(api: httpx.Client, tmp_path: Path) -> None:
    task_id = submit(api, script(tmp_path / "count.py", COUNTING, "50"))
    task = wait(api, task_id)
    assert task["status"] == "completed", task
    assert task["progress"] == {"current_step": 49, "total_steps": 50, "percentage": 98.0} or (
        task["progress"]["percentage"] == 100
    )

    points = [[step, 1 / (step + 1)] for step in range(50)]
    path = f"/tasks/{task_id}/metrics"
    poll(lambda: api.get(path, params={"name": "loss"}).json().get("points") == points, 10, "50 points")
    some = api.get(path, params={"name": "loss", "start_step": 10, "end_step": 12}).json()
    assert some == {"task_id": task_id, "name": "loss", "points": points[10:13]}
    few = api.get(path, params={"name": "loss", "max_points": 10}).json()["points"]
    assert len(few) <= 10
    assert (few[0], few[-1]) == (points[0], points[-1])
    overview = api.get(path).json()
    assert sorted(overview["names"]) == ["loss", "step_twice"]
    assert overview["latest"]["step_twice"] == 98.0

    logs = poll(lambda: _logs_with(api, task_id, 2), 10, "two log records")
    by_message = {entry["message"]: entry["level"] for entry in logs}
    assert by_message["counting to 50"] == "INFO"
    assert by_message["a warning"] == "WARNING"
    found = api.get(f"/tasks/{task_id}/logs", params={"keyword": "COUNTING"}).json()["entries"]
    assert [entry["message"] for entry in found] == ["counting to 50"]

    model = poll(lambda: api.get("/models", params={"task_id": task_id}).json()["models"], 15, "a model version")[
        0
    ]
    assert model["task_id"] == task_id
    assert "answer.txt" in model["files"]
    content = api.get(f"/models/{model['model_id']}/files/answer.txt")
    assert content.text == "42"
    report = poll(lambda: _report(api, task_id), 30, "a report")
    assert "<svg" in report
    assert "count" in report

    history = api.get(f"/tasks/{task_id}/history").json()["entries"]
    assert [entry["status"] for entry in history].count("completed") == 1


def _logs_with(api: httpx.Client, task_id: str, count: int) -> list[dict[str, Any]]:
    entries = list(api.get(f"/tasks/{task_id}/logs").json()["entries"])
    return entries if len(entries) >= count else []


def _report(api: httpx.Client, task_id: str) -> str:
    answer = api.get(f"/tasks/{task_id}/report")
    return answer.text if answer.status_code == 200 and "<svg" in answer.text else ""


def test_a_forecaster_trains_on_the_shipped_sales(api: httpx.Client) -> None:
    config = {
        "recipe": "forecast",
        "parameters": {"model": "tcn", "mode": "store", "horizon": 8, "max_steps": 20, "seed": 1},
        "data": {
            "path": str(REPOSITORY / "examples/data/walmart_sales_weekly.csv"),
            "time": "Date",
            "target": "Weekly_Sales",
            "product": "Dept",
            "store": "Store",
        },
    }
    task = wait(api, submit(api, config), within=240)
    assert task["status"] == "completed", task
    params = {"task_id": task["task_id"]}
    model = poll(lambda: api.get("/models", params=params).json()["models"], 15, "a model version")[0]
    assert model["model_id"].startswith("store/")
    assert {"model.safetensors", "metrics.json", "forecasts.csv"} <= set(model["files"])
    assert "Seasonal" in poll(lambda: _report(api, task["task_id"]), 30, "a report").replace(
        "seasonal", "Seasonal"
    )


def test_a_running_task_is_watched_live_and_cancelled(up: Platform, api: httpx.Client, tmp_path: Path) -> None:
    task_id = submit(api, script(tmp_path / "long.py", COUNTING, "100000"))
    wait(api, task_id, ("running",))
    url = str(api.base_url).replace("http", "ws", 1).rstrip("/") + f"/tasks/{task_id}/monitor"
    headers = {"Authorization": api.headers["Authorization"]}
    with websockets.sync.client.connect(url, additional_headers=headers) as socket:
        socket.send(json.dumps({"action": "subscribe", "metrics": ["loss"]}))
        steps: list[int] = []
        while len(steps) < 50:
            message = json.loads(socket.recv(timeout=90))
            if "metrics" in message:
                assert list(message["metrics"]) == ["loss"]
                steps.append(message["step"])
    assert steps == list(range(50)), "history and tail without a gap"

    answer = api.post(f"/tasks/{task_id}/cancel")
    assert answer.status_code == 202
    task = wait(api, task_id)
    assert task["status"] == "cancelled"
    poll(
        lambda: any("asked to stop" in entry["message"] for entry in _last_logs(api, task_id)),
        10,
        "its last words",
    )


def _last_logs(api: httpx.Client, task_id: str) -> list[dict[str, Any]]:
    return list(api.get(f"/tasks/{task_id}/logs", params={"limit": 1000}).json()["entries"])


def test_a_users_error_ends_the_task_with_file_and_line(api: httpx.Client, tmp_path: Path) -> None:
    task = wait(api, submit(api, script(tmp_path / "broken.py", "x = 1\ny = x / 0\n")))
    assert task["status"] == "failed"
    assert task["failure"]["failure_class"] == "user_error"
    assert task["failure"]["exception"] == "ZeroDivisionError"
    assert (Path(task["failure"]["file"]).name, task["failure"]["line"]) == ("broken.py", 2)
    assert len(task["attempts"]) == 1, "a user's own error is not tried again"


def test_workers_are_listed(api: httpx.Client) -> None:
    (worker,) = api.get("/workers").json()["workers"]
    assert worker["state"] == "alive"
    assert worker["heartbeat_age_seconds"] < 8


BAD_REQUESTS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", "/tasks", {"json": {}}, 422, "body"),
    ("POST", "/tasks", {"json": {"config": {"recipe": "forcast"}}}, 422, "config.recipe"),
    ("POST", "/tasks", {"json": {"config": {"recipe": "script"}}}, 422, "config.parameters.path"),
    ("POST", "/tasks", {"json": {"config": {"recipe": "script", "priorty": 1}}}, 422, "config.priorty"),
    ("POST", "/tasks", {"content": b"{not json"}, 415, "body"),
    ("POST", "/tasks", {"content": b"{not json", "headers": {"Content-Type": "application/json"}}, 422, "body"),
    ("GET", "/tasks?limit=0", {}, 422, "limit"),
    ("GET", "/tasks?status=sleeping", {}, 422, "status"),
    ("GET", "/tasks?cursor=nonsense", {}, 422, "cursor"),
    ("GET", "/tasks/task-000000000000", {}, 404, ""),
    ("POST", "/tasks/task-000000000000/start", {}, 404, ""),
    ("GET", "/tasks/task-000000000000/metrics", {}, 404, ""),
    ("GET", "/tasks/task-000000000000/logs", {}, 404, ""),
    ("GET", "/tasks/task-000000000000/report", {}, 404, ""),
    ("GET", "/tasks/task-000000000000/history", {}, 404, ""),
    ("GET", "/models/none/v1", {}, 404, ""),
    ("GET", "/files/xyz", {}, 404, ""),
    ("GET", "/nothing", {}, 404, ""),
    ("DELETE", "/tasks", {}, 405, ""),
]


@pytest.mark.parametrize(("method", "path", "body", "status", "field"), BAD_REQUESTS)
def test_bad_input_gets_a_clear_problem(
    api: httpx.Client, method: str, path: str, body: dict[str, Any], status: int, field: str
) -> None:
    answer = api.request(method, path, **body)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert problem["status"] == status
    assert problem["code"]
    assert problem["detail"]
    if field:
        assert field in [error["path"] for error in problem["errors"]], problem


def test_without_a_key_or_with_a_wrong_one_nothing_is_answered(up: Platform) -> None:
    with up.client("wrong") as api:
        refused = api.get("/tasks")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorised")
        root = str(api.base_url).split("/api/")[0]
    assert httpx.get(f"{root}/api/v1/training/tasks").status_code == 401
    assert httpx.get(f"{root}/health/live").status_code == 200
    assert httpx.get(f"{root}/health/ready").json()["status"] == "ok"
