"""Task and scheduler together over real Kafka; the worker's side is spoken by hand, to tell every story."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from trainwright.contracts.attempt import (
    AttemptDocument,
    AttemptEnded,
    AttemptStarted,
    Failure,
    FailureClass,
    Outcome,
)
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.pulse import AttemptProgressed, WorkerHeartbeat
from trainwright.contracts.queue import PlacementAssigned, PlacementReleased, WorkerLost
from trainwright.contracts.task import TaskPhase, TaskRetryScheduled
from trainwright.contracts.worker import AttemptRef, WorkerDocument, WorkerRegistered, WorkerStopped
from trainwright.embedded.archive import free_ports
from trainwright.embedded.kafka import KafkaProcess


class Hand:
    """A worker whose every word is spoken by the test."""

    def __init__(self, bus: Bus, cpus: float = 1) -> None:
        self._bus = bus
        self._version = 0
        self.worker_id = "worker-aaaaaaaaaaaa"
        self.incarnation = "one"
        self.cpus = cpus
        self._beating: asyncio.Task[None] | None = None

    def document(self, **fields: Any) -> WorkerDocument:
        self._version += 1
        return WorkerDocument(
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            version=self._version,
            hostname="test",
            cpus=self.cpus,
            memory=2**33,
            registered_at=datetime.now(UTC),
            **fields,
        )

    async def register(self, adopted: list[AttemptRef] | None = None) -> None:
        await self._bus.say(WorkerRegistered(worker=self.document(adopted=adopted or [])))
        self._beating = self._beating or self._bus.background(self._beat_for_ever())

    def fall_silent(self) -> None:
        if self._beating is not None:
            self._beating.cancel()

    async def _beat_for_ever(self) -> None:
        while True:
            await self.beat()
            await asyncio.sleep(0.5)

    async def beat(self, running: list[AttemptRef] | None = None) -> None:
        await self._bus.say(
            WorkerHeartbeat(
                worker_id=self.worker_id,
                incarnation=self.incarnation,
                time=datetime.now(UTC),
                running=running or [],
            )
        )

    async def started(self, task_id: str, attempt: int) -> None:
        await self._bus.say(AttemptStarted(attempt=self._attempt(task_id, attempt, 1)))

    async def ended(self, task_id: str, attempt: int, outcome: Outcome, failure: Failure | None = None) -> None:
        document = self._attempt(task_id, attempt, 2, outcome=outcome, failure=failure, ended_at=datetime.now(UTC))
        await self._bus.say(AttemptEnded(attempt=document))

    def _attempt(self, task_id: str, attempt: int, version: int, **fields: Any) -> AttemptDocument:
        return AttemptDocument(
            task_id=task_id,
            attempt=attempt,
            version=version,
            worker_id=self.worker_id,
            incarnation=self.incarnation,
            started_at=datetime.now(UTC),
            **fields,
        )


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[str]:
    port, controller_port = free_ports(2)
    with KafkaProcess(tmp_path / "kafka", port=port, controller_port=controller_port) as broker:
        yield broker.bootstrap


@pytest.fixture
async def plane(own_kafka: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    with services(["scheduler", "task"], own_kafka, tmp_path, SCHEDULER_LEASE="2") as process:
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
    (lost,) = await bus.tape.until(WorkerLost)
    assert (lost.placement.task_id, lost.placement.attempt) == (task_id, 1)
    await bus.tape.until(TaskRetryScheduled)

    await hand.ended(task_id, 1, Outcome.COMPLETED)  # a zombie's word
    await hand.beat([AttemptRef(task_id=task_id, attempt=1)])
    _, second = await bus.tape.until(RunAttempt, 2)
    assert second.attempt == 2
    (stop,) = await bus.tape.until(StopAttempt)
    assert stop.attempt == 1, "the run that was given up is ended"
    task = await show(api, task_id)
    assert (task["status"], task["attempt"], task["losses"], task["retries_used"]) == ("pending", 2, 1, 0)

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
    (lost,) = await bus.tape.until(WorkerLost)
    assert lost.placement.task_id == dropped
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
    await hand.ended(task_id, 1, Outcome.INTERRUPTED)
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
