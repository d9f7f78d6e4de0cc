"""One task on several workers: scheduler, task service, Kafka and two agents, with PyTorch's gloo between them."""

import os
import signal
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import httpx
import pytest

from tests.harness import Bus, eventually, listening, services
from tests.integration.worker_harness import Agent, second_agent
from trainwright.contracts.attempt import AttemptEnded, CheckpointSaved
from trainwright.contracts.gang import MemberEnded
from trainwright.contracts.metric import MetricBatch
from trainwright.contracts.queue import PlacementReleased
from trainwright.training import layout

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "scripts" / "train_together.py"
SLOW = EXAMPLE.read_text().replace(
    "    loss.backward()\n", "    loss.backward()\n    __import__('time').sleep(0.1)\n"
)
PLAIN = """
import os, time
import trainwright

run = trainwright.init()
for step in range(1, 10_000 if os.environ["TORCHELASTIC_RUN_ID"].endswith(".2") else 5):
    run.log(step, {"loss": 1 / step})
    time.sleep(0.1)
"""


@dataclass
class Desk:
    """A platform with two workers, as a person sees it."""

    api: httpx.AsyncClient
    bus: Bus
    folder: Path
    agents: tuple[Agent, Agent]

    async def submitted(self, script: str, workers: int, *, start: bool = True, **config: Any) -> str:
        path = self.folder / f"train{len(list(self.folder.glob('train*.py')))}.py"
        path.write_text(script)
        document = {
            "recipe": "script",
            "parameters": {"path": str(path), **config.pop("parameters", {})},
            "resource_requirements": {"cpu": 0.5, "workers": workers},
            **config,
        }
        answer = await self.api.post("/tasks", json={"config": document, "start": start})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["task_id"])

    async def until(self, task_id: str, **fields: Any) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            task = dict((await self.api.get(f"/tasks/{task_id}")).json())
            return task if {name: task[name] for name in fields} == fields else None

        found: dict[str, Any] = await eventually(reached, within=60, what=f"{task_id}: {fields}")
        return found

    def losses(self, task_id: str) -> dict[int, float]:
        batches = [batch for batch in self.bus.tape.of(MetricBatch) if batch.task_id == task_id]
        return {point.step: point.values["loss"] for batch in batches for point in batch.points}

    def said(self, kind: Any, task_id: str) -> list[Any]:
        return [event for event in self.bus.tape.of(kind) if event.subject == task_id]

    async def saved(self, task_id: str) -> None:
        await eventually(lambda: self.said(CheckpointSaved, task_id), within=60, what=f"a checkpoint of {task_id}")

    def agent_of(self, worker_id: str) -> Agent:
        return next(agent for agent in self.agents if agent.worker.worker_id == worker_id)

    def child(self, agent: Agent, task_id: str, attempt: int) -> int:
        return int((layout.read_json(agent.directory(task_id, attempt) / layout.SHIM) or {})["child_pid"])

    async def released(self, task_id: str) -> None:
        await eventually(lambda: self.said(PlacementReleased, task_id), within=20, what=f"the place of {task_id}")


@pytest.fixture
async def desk(own_kafka: str, tmp_path: Path) -> AsyncIterator[Desk]:
    with services(["scheduler", "task"], own_kafka, tmp_path) as plane:
        await plane.ready()
        async with listening(own_kafka) as bus, plane.client() as api:
            first = Agent(tmp_path, own_kafka, bus)
            with second_agent(first) as second:
                try:
                    for agent in (first, second):
                        await agent.start(OMP_NUM_THREADS="1")
                    yield Desk(api, bus, tmp_path, (first, second))
                finally:
                    first.clean_up()


async def test_two_workers_train_as_one_would_and_end_and_go_on_together(desk: Desk) -> None:
    alone = await desk.submitted(EXAMPLE.read_text(), 1)
    await desk.until(alone, status="completed")
    both = await desk.submitted(EXAMPLE.read_text(), 2)
    task = await desk.until(both, status="completed")
    assert task["attempt"] == 1
    assert {member["worker_id"] for member in task["members"]} == {a.worker.worker_id for a in desk.agents}
    await eventually(lambda: len(desk.losses(both)) == 40 == len(desk.losses(alone)), within=20, what="all losses")
    assert desk.losses(both) == pytest.approx(desk.losses(alone), rel=1e-4)
    assert [event.member.rank for event in desk.said(MemberEnded, both)].count(1) == 1
    assert len({event.attempt.version for event in desk.said(AttemptEnded, both)}) == 1
    await desk.released(both)

    killed = await desk.submitted(SLOW, 2)
    await desk.saved(killed)
    member = (await desk.until(killed, status="running"))["members"][1]
    os.kill(desk.child(desk.agent_of(member["worker_id"]), killed, 1), signal.SIGKILL)
    task = await desk.until(killed, status="completed")
    assert task["attempt"] == 2
    first, second = task["attempts"]
    assert "member 1" in first["message"], first
    assert first["members"][1]["worker_id"] == member["worker_id"]
    assert first["members"][1]["state"] in ("failed", "interrupted"), first
    assert [one["rank"] for one in second["members"]] == [0, 1]
    assert second["members"][0]["state"] == "completed"
    assert second["resume_step"] >= 10
    assert desk.losses(killed) == pytest.approx(desk.losses(alone), rel=1e-4)

    paused = await desk.submitted(SLOW, 2)
    await desk.saved(paused)
    assert (await desk.api.post(f"/tasks/{paused}/pause")).status_code < 300
    await desk.until(paused, status="paused")
    assert [str(event.member.outcome) for event in desk.said(MemberEnded, paused)] == ["paused", "paused"]
    await desk.released(paused)
    assert (await desk.api.post(f"/tasks/{paused}/resume")).status_code < 300
    await desk.until(paused, status="completed")
    assert desk.losses(paused) == pytest.approx(desk.losses(alone), rel=1e-4)


async def test_a_taken_port_and_a_worker_that_falls_silent_cost_an_attempt_each(desk: Desk) -> None:
    """No PyTorch here: what is tested is who finds out, and what it is called."""
    task_id = await desk.submitted(PLAIN, 2, start=False)
    low, high = 29400, 29499
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a gang of before may just have left it
        other.bind(("", low + (crc32(task_id.encode()) + 1) % (high - low + 1)))
        other.listen()
        assert (await desk.api.post(f"/tasks/{task_id}/start")).status_code < 300
        task = await desk.until(task_id, status="running", attempt=2)
    first = task["attempts"][0]
    assert first["failure_class"] == "environment_error"
    assert "where the members of the run were to meet, cannot be used" in first["message"]

    silent = desk.agent_of(task["members"][1]["worker_id"])
    assert silent.process is not None
    silent.process.send_signal(signal.SIGSTOP)
    try:
        await desk.until(task_id, status="pending", losses=1)
    finally:
        silent.process.send_signal(signal.SIGCONT)
    task = await desk.until(task_id, status="completed", attempt=3)
    second = task["attempts"][1]
    assert (second["outcome"], second["failure_class"]) == ("interrupted", "worker_lost")
    assert "member 1" in second["message"]
    assert "silent" in second["message"]
    assert second["members"][1]["state"] in ("lost", "interrupted"), "awake again it may say how it ended"
