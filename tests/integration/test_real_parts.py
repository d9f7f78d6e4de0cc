"""The platform on MongoDB, and on S3 where there is one: in one process, and as one process a service."""

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.harness import eventually, services
from tests.integration.real_parts import KEY, NAMES, one_process_each, person, worker
from tests.minio_server import MinioServer
from tests.mongo_server import MongoServer
from trainwright.storage.s3 import s3_client

SCRIPT = """
import time
import trainwright

run = trainwright.init()
state = {"total": 0}
first = None
for step in run.steps(150, checkpoint_every=10, state=state):
    first = first or step
    while first == 1 and step == 60 and not run.should_stop():
        time.sleep(0.02)  # the first attempt waits to be paused, however slow that is
    state["total"] += step
    run.log(step, {"total": state["total"]})
    time.sleep(0.02)
if not run.stopping:
    (run.output / "answer.txt").write_text(str(state["total"]))
    print("the sum is", state["total"])
"""

WAITS = """
import time
import trainwright

run = trainwright.init()
for step in run.steps(100_000, checkpoint_every=100, state={"n": 1}):
    run.log(step, {"n": step})
    time.sleep(0.02)
"""

BROKEN = """
import trainwright

run = trainwright.init()
raise KeyError("a mistake of its author")
"""


@pytest.fixture
def env(own_kafka: str, mongo: MongoServer, tmp_path: Path) -> dict[str, str]:
    """Settings of every process; blobs come beside. The log is fresh: whole services read all of it."""
    (tmp_path / "api-key").write_text(KEY)
    return {
        "TRAINWRIGHT_KAFKA": own_kafka,
        "TRAINWRIGHT_STORE": mongo.url,
        "TRAINWRIGHT_DATABASE": f"test_{uuid4().hex[:8]}",
        "TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key"),
        "TRAINWRIGHT_WORKER_ORPHAN_SECONDS": "5",
    }


@pytest.fixture
def blobs_s3(minio: MinioServer) -> dict[str, str]:
    bucket = f"test-{uuid4().hex[:12]}"
    s3_client(minio.endpoint, minio.access_key, minio.secret_key).make_bucket(bucket)
    return {"TRAINWRIGHT_BLOBS": f"s3:{bucket}", **minio.env}


async def test_the_story_on_mongodb_and_s3(
    env: dict[str, str], blobs_s3: dict[str, str], own_kafka: str, tmp_path: Path
) -> None:
    env |= blobs_s3
    with services(NAMES, own_kafka, tmp_path, **env) as plane, worker(env, tmp_path / "worker"):
        await plane.ready()
        async with person(plane) as api:
            await pause_resume_and_complete(api, tmp_path)


async def test_the_story_with_one_process_a_service(env: dict[str, str], own_kafka: str, tmp_path: Path) -> None:
    env["TRAINWRIGHT_BLOBS"] = f"dir:{tmp_path}/blobs"
    with (
        one_process_each(NAMES, own_kafka, tmp_path, env) as processes,
        worker(env, tmp_path / "workers" / "1") as one,
        worker(env, tmp_path / "workers" / "2") as two,
    ):
        await processes["gateway"].ready()
        async with person(processes["gateway"]) as api:
            await pause_resume_and_complete(api, tmp_path)
            broken = await submitted(api, tmp_path, BROKEN)
            cancelled = await submitted(api, tmp_path, WAITS)
            await reaches(api, cancelled, "running")
            answer = await api.post(f"/tasks/{cancelled}/cancel", params={"wait": 60})
            assert answer.json()["status"] == "cancelled", answer.text
            task = await reaches(api, broken, "failed")
            assert (task["attempt"], task["failure"]["failure_class"]) == (1, "user_error"), task
            await a_killed_worker_is_replaced(api, tmp_path, {"1": one, "2": two})


async def submitted(api: httpx.AsyncClient, folder: Path, script: str) -> str:
    """Start a script; return the task's name."""
    path = folder / f"{uuid4().hex[:8]}.py"
    path.write_text(script)
    config = {"recipe": "script", "name": "sum", "parameters": {"path": str(path)}}
    created = await api.post("/tasks", json={"config": config, "start": True})
    assert created.status_code == 201, created.text
    return str(created.json()["task_id"])


async def reaches(api: httpx.AsyncClient, task_id: str, status: str) -> dict[str, Any]:
    """Wait until a task has a status; return it."""

    async def has_it() -> bool:
        return bool((await api.get(f"/tasks/{task_id}")).json()["status"] == status)

    await eventually(has_it, within=90, what=f"{task_id} to be {status}")
    return dict((await api.get(f"/tasks/{task_id}")).json())


async def pause_resume_and_complete(api: httpx.AsyncClient, folder: Path) -> None:
    """Tell the story of one task, and look at everything that it leaves."""
    task_id = await submitted(api, folder, SCRIPT)

    async def has_saved() -> bool:
        return bool((await api.get(f"/tasks/{task_id}")).json()["checkpoints"])

    await eventually(has_saved, within=90, what="a checkpoint")
    paused = await api.post(f"/tasks/{task_id}/pause", params={"wait": 60})
    assert paused.json()["status"] == "paused", paused.text
    await api.post(f"/tasks/{task_id}/resume")
    task = await reaches(api, task_id, "completed")
    attempts = (await api.get(f"/tasks/{task_id}/attempts")).json()
    assert task["attempt"] == 2, attempts

    async def curve() -> bool:
        found = (await api.get(f"/tasks/{task_id}/metrics", params={"name": "total"})).json()
        return bool(found.get("points") == [[n, n * (n + 1) / 2] for n in range(1, 151)])

    await eventually(curve, within=30, what="every point once")
    said = (await api.get(f"/tasks/{task_id}/logs", params={"keyword": "THE SUM"})).json()["entries"]
    assert [entry["message"] for entry in said] == ["the sum is 11325"]

    async def model() -> str:
        models = (await api.get("/models", params={"task_id": task_id})).json()["models"]
        return str(models[0]["model_id"]) if models else ""

    model_id = await eventually(model, within=60, what="a model version")
    assert (await api.get(f"/models/{model_id}/files/answer.txt")).text == "11325"
    rows = (await api.get(f"/tasks/{task_id}/checkpoints")).json()["checkpoints"]
    assert [row["kind"] for row in rows].count("final") == 1
    assert (await api.get("/dead")).json()["dead_letters"] == []


async def a_killed_worker_is_replaced(
    api: httpx.AsyncClient, folder: Path, workers: Mapping[str, "subprocess.Popen[bytes]"]
) -> None:
    """Kill the worker that a task runs on: the other one takes it."""
    task_id = await submitted(api, folder, WAITS)
    task = await reaches(api, task_id, "running")
    home = next(
        path.parent
        for path in (folder / "workers").glob("*/worker.json")
        if str(task["worker_id"]) in path.read_text()
    )
    workers[home.name].kill()

    async def is_elsewhere() -> bool:
        found = (await api.get(f"/tasks/{task_id}")).json()
        return bool(found["status"] == "running" and found["worker_id"] != task["worker_id"])

    await eventually(is_elsewhere, within=90, what="the other worker to run it")
    answer = await api.post(f"/tasks/{task_id}/cancel", params={"wait": 60})
    assert answer.json()["status"] == "cancelled", answer.text
