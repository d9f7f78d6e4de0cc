"""Resources as people have them: over the public API and the command line, with a real Kafka; a worker by hand."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import API, Bus, ServiceProcess, eventually, listening, services
from tests.integration.spoken_worker import Hand
from tests.integration.test_task_scheduler import show, submit, until_status
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.quota import ReservationChanged, StrategyChanged, WorkerCordoned
from trainwright.contracts.worker import AttemptRef

KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture
async def plane(own_kafka: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    (tmp_path / "api-key").write_text(KEY)
    env = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key"), "SCHEDULER_PROTECTED": "0"}
    with services(["task", "scheduler", "gateway"], own_kafka, tmp_path, **env) as process:
        await eventually(lambda: answers(process), within=90, what="the gateway")
        yield process


async def answers(process: ServiceProcess) -> bool:
    try:
        async with httpx.AsyncClient(base_url=process.url + API) as client:
            answer = await client.get("/resources/pool", headers={"Authorization": f"Bearer {KEY}"})
        return answer.status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture
async def bus(plane: ServiceProcess, own_kafka: str) -> AsyncIterator[Bus]:
    async with listening(own_kafka) as bus:
        yield bus


@pytest.fixture
async def api(plane: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=plane.url + API, headers=headers, timeout=90) as client:
        yield client


async def shell(plane: ServiceProcess, *arguments: str) -> str:
    """Run the command line and return what it says."""
    command = [sys.executable, "-m", "trainwright.cli.main", *arguments, "--url", plane.url, "--key", KEY]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


async def why(api: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    answer = await api.get(f"/tasks/{task_id}/why")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def test_a_place_is_given_up_for_a_higher_priority_and_got_back_and_each_wait_is_explained(
    bus: Bus, api: httpx.AsyncClient, plane: ServiceProcess, tmp_path: Path
) -> None:
    hand = Hand(bus, cpus=2)
    await hand.register()
    needs = {"resource_requirements": {"cpu": 2}}
    low = await submit(api, tmp_path, name="low", **needs)
    await bus.tape.until(RunAttempt)
    hand.running = [AttemptRef(task_id=low, attempt=1)]
    await hand.started(low, 1)
    await until_status(api, low, "running")

    would = (await api.post("/resources/simulate", json={**needs, "priority": 5})).json()
    assert (would["starts_now"], would["preempts"]) == (False, [low])
    equal = await submit(api, tmp_path, name="equal", **needs)
    await eventually(lambda: _waits(api, equal), within=20, what="its wait")
    found = await why(api, equal)
    assert (found["waits_for"], found["position"]) == ("slots", 1)
    assert [(one["id"], one["name"]) for one in found["blocked_by"]] == [(low, "low")]
    assert found["unblocked_by"] == [f"{low} ends"]
    said = await shell(plane, "task", "why", equal)
    assert "position     1 of 1 that wait" in said
    assert (await why(api, low))["waits"] is False
    assert (await api.get("/tasks/task-000000000000/why")).status_code == 404

    high = await submit(api, tmp_path, name="high", priority=5, **needs)
    (stop,) = await bus.tape.until(StopAttempt)
    assert (stop.task_id, stop.kind, high in stop.reason) == (low, "preempt", True)
    rows = [json.loads(line) for line in (await shell(plane, "resource", "allocations", "--json")).splitlines()]
    assert [(row["task_id"], row["gives_way_to"]) for row in rows] == [(low, high)]
    failure = Failure(failure_class=FailureClass.PREEMPTED, message="the place was needed for another task")
    hand.running = []
    await hand.ended(low, 1, Outcome.INTERRUPTED, failure)
    _, second = await bus.tape.until(RunAttempt, 2)
    assert second.task_id == high
    await hand.started(high, 1)
    waiting = await until_status(api, low, "pending")
    assert (waiting["losses"], waiting["retries_used"]) == (1, 0)
    await hand.ended(high, 1, Outcome.COMPLETED)
    _, _, third = await bus.tape.until(RunAttempt, 3)
    assert (third.task_id, third.attempt) == (low, 2), "it is older than its equal"


async def _waits(api: httpx.AsyncClient, task_id: str) -> bool:
    return bool((await show(api, task_id))["reason"] == "waiting for a free place")


async def test_what_waits_is_told_by_its_size_and_may_ask_for_something_else(
    api: httpx.AsyncClient, plane: ServiceProcess, tmp_path: Path
) -> None:
    task_id = await submit(api, tmp_path, resource_requirements={"gpu": 1, "workers": 2})

    async def wanted() -> list[tuple[int, int, str]] | None:
        told = (await api.get("/resources/demand")).json()
        found = [(one["gpu"], one["count"], one["waits_for"]) for one in told["demand"]]
        return found if found and found[0][2] else None

    assert await eventually(wanted, within=20, what="its demand") == [(1, 2, "worker")]
    said = await shell(plane, "task", "resources", task_id, "--gpu", "2", "--workers", "1", "-r", "one is enough")
    assert task_id in said

    async def changed() -> bool:
        return await wanted() == [(2, 1, "worker")]

    await eventually(changed, within=20, what="the other demand")
    command = [sys.executable, "-m", "trainwright.cli.main", "task", "resources", task_id, "--memory", "much"]
    refused = await asyncio.to_thread(
        subprocess.run, [*command, "--url", plane.url, "--key", KEY], capture_output=True, text=True, timeout=120
    )
    assert refused.returncode != 0
    assert "memory" in refused.stderr


async def _more_workers_are_told_apart_from_never(
    api: httpx.AsyncClient, plane: ServiceProcess, tmp_path: Path
) -> None:
    """Ask for more than the quota of `vision` gives on one worker of four cores: one run, half of all cores."""
    few = await shell(plane, "resource", "simulate", "--workers", "2", "--gpu-memory", "1Gi")
    assert "1 of 2 that it asks for at once" in few
    ask = {"resource_requirements": {"cpu": 3}, "strategy": "vision"}
    later = (await api.post("/resources/simulate", json=ask)).json()
    assert (later["starts_now"], later["why"]["waits_for"]) == (False, "quota"), "more workers make it larger"
    assert "may have 2 CPU (50 % of 4)" in later["why"]["reason"]
    three = await submit(api, tmp_path, **ask)
    await until_status(api, three, "pending", "waiting_quota")
    wanted = (await api.get("/resources/demand")).json()["demand"]
    assert [(one["cpu"], one["waits_for"]) for one in wanted] == [(3, "quota")], "not who waits for runs to end"
    assert (await api.post(f"/tasks/{three}/cancel")).status_code == 200
    ask["resource_requirements"] = {"workers": 2}
    never = await api.post("/resources/simulate", json=ask)
    assert (never.status_code, never.json()["code"]) == (409, "resource_limit")
    assert "asks for 2, may have 1 workers" in never.json()["detail"]

    async def is_gone() -> bool:
        return bool((await api.get("/resources/pool")).json()["waiting"] == 1)

    await eventually(is_gone, within=20, what="the cancelled one to leave the queue")


async def test_quotas_reservations_and_workers_left_out(
    bus: Bus, api: httpx.AsyncClient, plane: ServiceProcess, tmp_path: Path
) -> None:
    hand = Hand(bus, cpus=4)
    await hand.register()
    await shell(plane, "resource", "set-quota", "vision", "--cpu-percent", "50", "--max-workers", "1")
    (changed,) = await bus.tape.until(StrategyChanged)
    assert (changed.strategy.strategy, changed.strategy.max_workers, changed.strategy.version) == ("vision", 1, 1)
    one = await submit(api, tmp_path, strategy="vision")
    await bus.tape.until(RunAttempt)
    two = await submit(api, tmp_path, strategy="vision")
    await until_status(api, two, "pending", "waiting_quota")
    assert [one["kind"] for one in (await why(api, two))["blocked_by"]] == ["quota", "task"]
    await _more_workers_are_told_apart_from_never(api, plane, tmp_path)
    use = (await api.get("/resources/usage")).json()["strategies"]
    assert [(row["strategy"], row["workers"], row["waiting"]) for row in use] == [("vision", 1, 1)]

    body = {"cpu": 3, "strategy": "other", "duration": "1h"}
    kept = (await api.post("/resources/reservations", json=body)).json()
    assert (kept["worker_id"], kept["slots"]["cpu"]) == (hand.worker_id, 3)
    full = await api.post("/resources/reservations", json=body)
    assert (full.status_code, full.json()["code"]) == (409, "resource_limit")
    wrong = await api.post("/resources/reservations", json={"cpu": 3, "duration": "1h"})
    assert (wrong.status_code, "for whom" in wrong.json()["detail"]) == (422, True)
    pool = json.loads(await shell(plane, "resource", "pool", "--json"))
    assert (pool["free"]["cpu"], pool["reserved"]["cpu"], pool["allocated"]["cpu"]) == (0, 3, 1)
    outside = await submit(api, tmp_path)
    await eventually(lambda: _waits(api, outside), within=20, what="its wait")
    assert (await why(api, outside))["unblocked_by"][-1] == f"{one} ends"
    inside = await submit(api, tmp_path, strategy="other")
    _, second = await bus.tape.until(RunAttempt, 2)
    assert second.task_id == inside
    assert "KEPT" in await shell(plane, "resource", "reservations")
    assert (await api.delete(f"/resources/reservations/{kept['reservation_id']}")).json()["ended"]
    assert (await api.delete(f"/resources/reservations/{kept['reservation_id']}")).status_code == 404
    _, _, third = await bus.tape.until(RunAttempt, 3)
    assert third.task_id == outside
    assert [event.reservation.ended for event in await bus.tape.until(ReservationChanged, 2)] == [False, True]

    await shell(plane, "worker", "drain", hand.worker_id, "--reason", "new driver")
    (row,) = (await api.get("/workers")).json()["workers"]
    assert (row["state"], row["reason"]) == ("draining", "new driver")
    assert (await api.post("/workers/nobody/drain")).status_code == 404
    await api.delete("/resources/quotas/vision")
    assert (await api.get("/resources/quotas")).json() == {"quotas": []}
    await eventually(lambda: _none_takes(api, two), within=20, what="no worker to take anything")
    await _nothing_is_kept_for_one_that_has_ended(api, tmp_path)
    await shell(plane, "worker", "undrain", hand.worker_id)
    await bus.tape.until(RunAttempt, 4)

    failure = Failure(failure_class=FailureClass.NODE_BAD, message="ECC error")
    await hand.ended(one, 1, Outcome.FAILED, failure)
    await hand.ended(two, 1, Outcome.FAILED, failure)
    cordons = [event.cordon for event in await bus.tape.until(WorkerCordoned, 3)]
    assert [(c.cordoned, c.actor == "scheduler") for c in cordons] == [(True, False), (False, False), (True, True)]
    assert cordons[2].until is not None
    assert "2 runs failed there for its own fault, the last one: ECC error" in cordons[2].reason


async def _nothing_is_kept_for_one_that_has_ended(api: httpx.AsyncClient, tmp_path: Path) -> None:
    task_id = await submit(api, tmp_path)
    await api.post(f"/tasks/{task_id}/cancel", params={"wait": 10})

    async def refused() -> str | None:
        answer = await api.post("/resources/reservations", json={"cpu": 1, "task_id": task_id, "duration": "1h"})
        return answer.json()["detail"] if answer.json()["code"] == "conflict" else None

    told = await eventually(refused, within=20, what="no place to be kept for a task that has ended")
    assert told == (
        f"task {task_id} is cancelled and takes no place any more;"
        " name one that has not ended, or run it again and name the new one"
    )


async def _none_takes(api: httpx.AsyncClient, task_id: str) -> bool:
    return "worker-aaaaaaaaaaaa is drained; `trainwright worker undrain" in str(
        (await show(api, task_id))["reason"]
    )
