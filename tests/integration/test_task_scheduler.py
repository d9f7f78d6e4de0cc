"""Task and scheduler together over real Kafka; the worker's side is spoken by hand, to tell every story."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from tests.integration.spoken_worker import Hand
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.pulse import AttemptProgressed
from trainwright.contracts.queue import PlacementAssigned, PlacementReleased, WorkerLost
from trainwright.contracts.task import TaskPhase, TaskRetryScheduled
from trainwright.contracts.worker import (
    AttemptRef,
    WorkerDraining,
    WorkerStopped,
)

short_lease = pytest.mark.parametrize("lease", ["2"])
"""For those who wait for a worker's silence; in the others nobody falls silent, however slow the machine is."""


@pytest.fixture
def lease() -> str:
    return "30"


@pytest.fixture
async def plane(own_kafka: str, tmp_path: Path, lease: str) -> AsyncIterator[ServiceProcess]:
    with services(["scheduler", "task"], own_kafka, tmp_path, SCHEDULER_LEASE=lease) as process:
        await process.ready()
        yield process


@pytest.fixture
async def bus(plane: ServiceProcess, own_kafka: str) -> AsyncIterator[Bus]:
    async with listening(own_kafka) as bus:
        yield bus


@pytest.fixture
async def api(plane: ServiceProcess) -> AsyncIterator[httpx.AsyncClient]:
    async with plane.client() as client:
        yield client


async def submit(api: httpx.AsyncClient, tmp_path: Path, **fields: Any) -> str:
    script = tmp_path / "train.py"
    script.write_text("print('hello')\n")
    config = {"recipe": "script", "parameters": {"path": str(script)}}
    answer = await api.post("/tasks", json={"config": config, "start": True, **fields})
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "pending"
    return str(answer.json()["task_id"])


async def show(api: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    answer = await api.get(f"/tasks/{task_id}")
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


async def until_status(api: httpx.AsyncClient, task_id: str, status: str, phase: str = "") -> dict[str, Any]:
    async def reached() -> dict[str, Any] | None:
        task = await show(api, task_id)
        return task if task["status"] == status and phase in ("", task["phase"]) else None

    task: dict[str, Any] = await eventually(reached, within=20, what=f"{task_id} to be {status} {phase}")
    return task


async def test_a_task_runs_from_submission_to_its_end(bus: Bus, api: httpx.AsyncClient, tmp_path: Path) -> None:
    task_id = await submit(api, tmp_path)
    waiting = await until_status(api, task_id, "pending", "waiting_slots")
    assert (await api.post(f"/tasks/{task_id}/start")).status_code == 202
    await eventually(
        lambda: any("none is connected" in p.placement.reason for p in bus.tape.events if hasattr(p, "placement")),
        within=10,
        what="a reason to wait",
    )
    assert waiting["attempt"] == 0

    hand = Hand(bus)
    await hand.register()
    (command,) = await bus.tape.until(RunAttempt)
    assert (command.task_id, command.attempt, command.incarnation) == (task_id, 1, "one")
    assert command.config.files[0].path == "train.py"
    await hand.started(task_id, 1)
    running = await until_status(api, task_id, "running", "training")
    assert running["worker_id"] == hand.worker_id

    await bus.say(
        AttemptProgressed(
            task_id=task_id,
            attempt=1,
            worker_id=hand.worker_id,
            seq=1,
            phase=TaskPhase.TRAINING,
            step=25,
            total_steps=100,
            latest_metrics={"loss": 0.5},
        )
    )
    await eventually(
        lambda: _progress_is(api, task_id, {"current_step": 25, "total_steps": 100, "percentage": 25.0}),
        within=10,
        what="progress",
    )
    assert (await show(api, task_id))["latest_metrics"] == {"loss": 0.5}
    conflict = await api.post(f"/tasks/{task_id}/start")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "illegal_transition")

    await hand.ended(task_id, 1, Outcome.COMPLETED)
    await until_status(api, task_id, "completed")
    await bus.tape.until(PlacementReleased)
    history = (await api.get(f"/tasks/{task_id}/history")).json()["entries"]
    assert [entry["version"] for entry in history] == list(range(1, len(history) + 1))
    assert [entry["status"] for entry in history].count("completed") == 1
    assert history[0]["actor"] == "tests"
    assert (await api.post(f"/tasks/{task_id}/cancel")).status_code == 409


async def _progress_is(api: httpx.AsyncClient, task_id: str, wanted: dict[str, Any]) -> bool:
    return bool((await show(api, task_id))["progress"] == wanted)


@short_lease
async def test_a_silent_worker_is_replaced_and_its_late_words_are_fenced(
    bus: Bus, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    task_id = await submit(api, tmp_path)
    hand = Hand(bus)
    await hand.register()
    await bus.tape.until(RunAttempt)
    await hand.started(task_id, 1)
    await asyncio.sleep(3)  # longer than the lease, which is 2 s here
    assert not bus.tape.of(WorkerLost), "a worker that beats is not lost"
    hand.fall_silent()
    lost = await bus.tape.until(WorkerLost)
    assert {(one.placement.task_id, one.placement.attempt) for one in lost} == {(task_id, 1)}
    await bus.tape.until(TaskRetryScheduled)

    await hand.ended(task_id, 1, Outcome.COMPLETED)  # a zombie's word
    await hand.beat([AttemptRef(task_id=task_id, attempt=1)])
    _, second = await bus.tape.until(RunAttempt, 2)
    assert second.attempt == 2
    (stop,) = await bus.tape.until(StopAttempt)
    assert stop.attempt == 1, "the run that was given up is ended"

    async def is_placed_again() -> dict[str, Any] | None:  # the worker may hear of it before the task service
        task = await show(api, task_id)
        return task if task["attempt"] == 2 else None

    task = await eventually(is_placed_again, within=10, what="the second attempt")
    assert (task["status"], task["losses"], task["retries_used"]) == ("pending", 1, 0)

    await hand.beat([AttemptRef(task_id=task_id, attempt=2)])
    await hand.started(task_id, 2)
    await hand.ended(task_id, 2, Outcome.COMPLETED)
    await until_status(api, task_id, "completed")


async def test_a_new_incarnation_ends_what_it_does_not_adopt(
    bus: Bus, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    adopted, dropped = await submit(api, tmp_path), await submit(api, tmp_path)
    hand = Hand(bus, cpus=2)
    await hand.register()
    await bus.tape.until(RunAttempt, 2)
    hand.incarnation = "two"
    await hand.register(adopted=[AttemptRef(task_id=adopted, attempt=1)])
    lost = await bus.tape.until(WorkerLost)
    assert {one.placement.task_id for one in lost} == {dropped}, "told again to a task that has not heard yet"
    commands = await bus.tape.until(RunAttempt, 3)
    assert (commands[2].task_id, commands[2].attempt, commands[2].incarnation) == (dropped, 2, "two")
    moved = [p for p in bus.tape.of(PlacementAssigned) if p.placement.task_id == adopted]
    assert [p.placement.incarnation for p in moved] == ["one", "two"]
    await hand.ended(adopted, 1, Outcome.COMPLETED)
    await until_status(api, adopted, "completed")


async def test_cancel_while_waiting_and_while_running(bus: Bus, api: httpx.AsyncClient, tmp_path: Path) -> None:
    waiting = await submit(api, tmp_path)
    answer = await api.post(f"/tasks/{waiting}/cancel")
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["cancelled_at"]

    running = await submit(api, tmp_path)
    hand = Hand(bus)
    await hand.register()
    (command,) = await bus.tape.until(RunAttempt)
    assert command.task_id == running, "a cancelled task takes no place"
    await hand.started(running, 1)
    await until_status(api, running, "running")
    answer = await api.post(f"/tasks/{running}/cancel")
    assert (answer.status_code, answer.json()["phase"]) == (202, "stopping")
    (stop,) = await bus.tape.until(StopAttempt)
    assert (stop.task_id, stop.attempt, stop.kind) == (running, 1, "cancel")
    await hand.ended(running, 1, Outcome.CANCELLED)
    await until_status(api, running, "cancelled")


async def test_failures_are_charged_and_a_stopped_worker_is_not(
    bus: Bus, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    task_id = await submit(api, tmp_path)
    hand = Hand(bus)
    await hand.register()
    await bus.tape.until(RunAttempt)
    await hand.started(task_id, 1)
    await until_status(api, task_id, "running")
    # Topics have no order among them: an agent that leaves says so first, and goes when its end was heard.
    await bus.say(WorkerDraining(worker=hand.document(draining=True)))
    await hand.ended(task_id, 1, Outcome.INTERRUPTED)
    await until_status(api, task_id, "pending")
    await bus.say(WorkerStopped(worker=hand.document(stopped=True)))
    task = await until_status(api, task_id, "pending", "waiting_slots")
    assert (task["losses"], task["retries_used"]) == (1, 0)

    hand.incarnation = "two"
    await hand.register()
    commands = await bus.tape.until(RunAttempt, 2)
    assert commands[-1].incarnation == "two"
    failure = Failure(failure_class=FailureClass.USER_ERROR, message="ZeroDivisionError: division by zero", line=3)
    await hand.ended(task_id, 2, Outcome.FAILED, failure)
    task = await until_status(api, task_id, "failed")
    assert task["failure"]["line"] == 3
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["interrupted", "failed"]


async def test_a_run_is_paused_resumed_and_its_cancel_passed_on(
    bus: Bus, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    task_id = await submit(api, tmp_path)
    hand = Hand(bus)
    hand.clock_is_off = timedelta(hours=1)
    await hand.register()
    await bus.tape.until(RunAttempt)
    await hand.started(task_id, 1)
    await until_status(api, task_id, "running")
    assert (await api.post(f"/tasks/{task_id}/pause")).json()["phase"] == "stopping"
    (pause,) = await bus.tape.until(StopAttempt)
    await hand.ended(task_id, 1, Outcome.PAUSED)
    await until_status(api, task_id, "paused", "held")
    await bus.tape.until(PlacementReleased)

    assert (await api.post(f"/tasks/{task_id}/resume")).json()["phase"] == "waiting_slots"
    _, command = await bus.tape.until(RunAttempt, 2)
    await hand.started(task_id, 2)
    await until_status(api, task_id, "running")
    await api.post(f"/tasks/{task_id}/pause")
    _, again = await bus.tape.until(StopAttempt, 2)
    await api.post(f"/tasks/{task_id}/cancel")
    _, _, cancel = await bus.tape.until(StopAttempt, 3)
    kinds = [(stop.attempt, stop.kind.value) for stop in (pause, again, cancel)]
    assert kinds == [(1, "pause"), (2, "pause"), (2, "cancel")]
    assert cancel.revision > again.revision, "the worker takes the later wish"
    await hand.ended(task_id, 2, Outcome.CANCELLED)
    await until_status(api, task_id, "cancelled")
    assert not bus.tape.of(WorkerLost), "a worker's clock is nobody's business"
    assert command.timeout_seconds is None


@short_lease
async def test_a_worker_that_said_it_returns_keeps_its_runs_for_longer_than_the_lease(
    bus: Bus, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    task_id = await submit(api, tmp_path)
    hand = Hand(bus)
    await hand.register()
    await bus.tape.until(RunAttempt)
    await hand.started(task_id, 1)
    ref = AttemptRef(task_id=task_id, attempt=1)
    await hand.restarts(returns_within=30)
    await asyncio.sleep(4)  # twice the lease
    waiting = await submit(api, tmp_path)
    hand.incarnation, hand.running, hand.cpus = "two", [ref], 2
    assert not bus.tape.of(WorkerLost)
    assert (await show(api, waiting))["attempt"] == 0, "it takes nothing new meanwhile"
    await hand.register(adopted=[ref])
    _, second = await bus.tape.until(RunAttempt, 2)
    assert second.task_id == waiting
    hand.running.append(AttemptRef(task_id=waiting, attempt=1))

    await hand.restarts(returns_within=3)
    await eventually(
        lambda: {one.placement.task_id for one in bus.tape.of(WorkerLost)} == {task_id, waiting},
        within=20,
        what="both to be lost: it is not waited for for ever",
    )


@short_lease
async def test_a_silent_worker_is_waited_for_until_the_run_is_cancelled(
    bus: Bus, api: httpx.AsyncClient, tmp_path: Path
) -> None:
    config = {"recipe": "script", "on_unreachable": "wait", "parameters": {"path": str(tmp_path / "train.py")}}
    task_id = await submit(api, tmp_path, config=config)
    hand = Hand(bus)
    await hand.register()
    await bus.tape.until(RunAttempt)
    await hand.started(task_id, 1)
    hand.running = [AttemptRef(task_id=task_id, attempt=1)]
    await until_status(api, task_id, "running")

    async def says(words: str) -> bool:
        return words in (await show(api, task_id))["reason"]

    hand.fall_silent()
    await eventually(lambda: says("waiting for it"), within=15, what="the reason")
    hand.speak()
    await eventually(lambda: _says_nothing(api, task_id), within=10, what="the reason to go")
    hand.fall_silent()
    await eventually(lambda: says("waiting for it"), within=15, what="the reason again")
    assert not bus.tape.of(WorkerLost)
    assert (await api.post(f"/tasks/{task_id}/cancel")).json()["phase"] == "stopping"
    await until_status(api, task_id, "cancelled")


async def _says_nothing(api: httpx.AsyncClient, task_id: str) -> bool:
    task = await show(api, task_id)
    return (task["status"], task["reason"], task["attempt"]) == ("running", "", 1)
