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

from tests.harness import API, Bus, ServiceProcess, eventually, listening, services
from tests.integration.test_scheduler_resources import KEY, answers, shell
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
HOT = (
    EXAMPLE.read_text()
    .replace("optimizer.step()\n", "optimizer.step()\n    print(step, 'rate', optimizer.param_groups[0]['lr'])\n")
    .replace("device =", "run.accepts(lambda wanted: 1 / (wanted['learning_rate'] - 0.5 * rank))\ndevice =")
    .replace(
        "    loss.backward()\n",
        "    loss.backward()\n    os.path.exists(run.parameters['gate']) or time.sleep(step > 10)\n",
    )
    .replace("import os\n", "import os, time\n")
)
"""It takes its time after step 10 until a file is there; rank 1 refuses a rate of 0.5."""
PLAIN = """
import os, time
import trainwright

run = trainwright.init()
for step in range(1, 10_000 if os.environ["TORCHELASTIC_RUN_ID"].endswith(".2") else 5):
    run.log(step, {"loss": 1 / step})
    time.sleep(0.1)
"""
FAILS = """
import os, time
import trainwright

run = trainwright.init()
if os.environ["RANK"] == "1":
    raise ValueError("expected 3 classes, got 4")
while not run.should_stop():
    time.sleep(0.05)
"""


@dataclass
class Desk:
    """A platform with two workers, as a person sees it."""

    plane: ServiceProcess
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

    async def changed(self, task_id: str, **values: Any) -> dict[str, Any]:
        """Change parameters of a run; return what became of that."""
        wish = {"parameters": values, "reason": "a test"}
        asked = await self.api.patch(f"/tasks/{task_id}/parameters", json=wish)
        assert asked.status_code < 300, asked.text

        async def answered() -> dict[str, Any] | None:
            log = (await self.api.get(f"/tasks/{task_id}/parameters")).json()
            change = dict(log["changes"][asked.json()["revision"] - 1])
            return change if change["state"] != "requested" else None

        found: dict[str, Any] = await eventually(answered, within=30, what=f"an answer about {values}")
        return found

    async def lines(self, task_id: str, *, rank: int, until: str, stream: str = "stdout") -> list[tuple[int, str]]:
        """Wait for a line of a rank's output; return all of them, each with its attempt."""

        async def written() -> list[tuple[int, str]]:
            answer = await self.api.get(f"/tasks/{task_id}/logs", params={"rank": rank, "limit": 1000})
            entries = [one for one in answer.json()["entries"] if one["extra"]["stream"] == stream]
            assert {one["extra"]["rank"] for one in entries} <= {rank}
            found = [(int(one["extra"]["attempt"]), str(one["message"])) for one in entries]
            return found if any(until in line for _, line in found) else []

        found: list[tuple[int, str]] = await eventually(written, within=20, what=f"{until!r} of rank {rank}")
        return found

    def agent_of(self, worker_id: str) -> Agent:
        return next(agent for agent in self.agents if agent.worker.worker_id == worker_id)

    def child(self, agent: Agent, task_id: str, attempt: int) -> int:
        return int((layout.read_json(agent.directory(task_id, attempt) / layout.SHIM) or {})["child_pid"])

    async def released(self, task_id: str) -> None:
        await eventually(lambda: self.said(PlacementReleased, task_id), within=20, what=f"the place of {task_id}")


@pytest.fixture
async def desk(own_kafka: str, tmp_path: Path) -> AsyncIterator[Desk]:
    (tmp_path / "api-key").write_text(KEY)
    env = {"TRAINWRIGHT_ADMIN_KEY_FILE": str(tmp_path / "api-key")}
    headers = {"Authorization": f"Bearer {KEY}"}
    with services(["scheduler", "task", "log", "gateway"], own_kafka, tmp_path, **env) as plane:
        await eventually(lambda: answers(plane), within=90, what="the gateway")
        api = httpx.AsyncClient(base_url=plane.url + API, headers=headers, timeout=90)
        async with listening(own_kafka) as bus, api:
            first = Agent(tmp_path, own_kafka, bus)
            with second_agent(first) as second:
                try:
                    for agent in (first, second):
                        await agent.start(OMP_NUM_THREADS="1")
                    yield Desk(plane, api, bus, tmp_path, (first, second))
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

    await _is_changed_killed_and_goes_on(desk, desk.losses(alone))

    paused = await desk.submitted(SLOW, 2)
    await desk.saved(paused)
    assert (await desk.api.post(f"/tasks/{paused}/pause")).status_code < 300
    await desk.until(paused, status="paused")
    assert [str(event.member.outcome) for event in desk.said(MemberEnded, paused)] == ["paused", "paused"]
    await desk.released(paused)
    assert (await desk.api.post(f"/tasks/{paused}/resume")).status_code < 300
    await desk.until(paused, status="completed")
    assert desk.losses(paused) == pytest.approx(desk.losses(alone), rel=1e-4)


async def _is_changed_killed_and_goes_on(desk: Desk, losses: dict[int, float]) -> None:
    gate = desk.folder / "gate"
    killed = await desk.submitted(
        HOT,
        2,
        parameters={"learning_rate": 0.1, "gate": str(gate)},
        hot=["learning_rate"],
        repairable={"learning_rate": "learning_rate"},
    )
    await desk.saved(killed)
    member = (await desk.until(killed, status="running"))["members"][1]
    taken = await desk.changed(killed, learning_rate=0.05)
    assert taken["state"] == "applied"
    refused = await desk.changed(killed, learning_rate=0.5)
    assert (refused["state"], refused["error"]) == ("rejected", "rank 1: float division by zero")
    os.kill(desk.child(desk.agent_of(member["worker_id"]), killed, 1), signal.SIGKILL)
    gate.touch()
    task = await desk.until(killed, status="completed")
    assert task["attempt"] == 2
    first, second = task["attempts"]
    assert "member 1" in first["message"], first
    assert first["members"][1]["worker_id"] == member["worker_id"]
    assert first["members"][1]["state"] in ("failed", "interrupted"), first
    assert [one["rank"] for one in second["members"]] == [0, 1]
    assert second["members"][0]["state"] == "completed"
    assert second["resume_step"] >= 10
    before = {step: loss for step, loss in desk.losses(killed).items() if step <= taken["step"]}
    assert before == pytest.approx({step: losses[step] for step in before}, rel=1e-4)
    for rank in (0, 1):
        rates = {
            (attempt, step): float(rate)
            for attempt, line in await desk.lines(killed, rank=rank, until="40 rate")
            for step, _, rate in [line.split()]
        }
        assert {attempt for attempt, _ in rates} == {1, 2}
        for (attempt, step), rate in rates.items():
            assert rate == (0.1 if int(step) < taken["step"] else 0.05), (attempt, rank, step)
    said = await shell(desk.plane, "logs", killed, "--rank", "1", "--keyword", "40 rate")
    assert said.endswith("INFO    [rank 1] 40 rate 0.05\n")


async def test_a_taken_port_and_a_silent_worker_cost_an_attempt_each_and_a_failed_member_is_named(
    desk: Desk,
) -> None:
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

    failed = await desk.submitted(FAILS, 2)
    failure = (await desk.until(failed, status="failed"))["failure"]
    assert failure["message"].startswith("member 1, on "), failure
    assert (failure["exception"], failure["failure_class"]) == ("ValueError", "user_error")
    assert 'raise ValueError("expected 3 classes, got 4")' in failure["traceback"]
    await desk.lines(failed, rank=1, until="expected 3 classes", stream="stderr")
