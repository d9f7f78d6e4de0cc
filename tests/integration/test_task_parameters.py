"""Parameters changed while a task runs, over HTTP, Kafka and a real worker; and tasks that wait for others."""

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.harness import Bus, ServiceProcess, eventually, listening, services
from tests.integration.worker_harness import Agent
from trainwright.contracts.attempt import ParametersApplied
from trainwright.contracts.command import UpdateParameters
from trainwright.contracts.task import TaskParametersChanged, TaskReprioritised
from trainwright.training import layout

TRAINS = """
import json, os, time, trainwright
run = trainwright.init()
gate = run.parameters["gate"]
state = {"w": 1.0}
rates = {}
run.accepts(lambda parameters: 1 / (parameters["lr"] - 0.5))
for step in run.steps(30, checkpoint_every=1000, state=state):
    lr = run.parameters["lr"]
    rates[step] = lr
    state["w"] -= lr * (state["w"] - 3.0)
    run.log(step, {"loss": abs(state["w"] - 3.0)}, total_steps=30)
    until = 10 if not os.path.exists(gate) else 20 if not os.path.exists(gate + "2") else 30
    while step >= until and not run.should_stop():
        time.sleep(0.01)
        if os.path.exists(gate if until == 10 else gate + "2") and run._hot._newest:  # it has heard of a change
            break
(run.output / "end.json").write_text(json.dumps({"w": state["w"], "rates": rates}))
"""


@pytest.fixture
async def plane(own_kafka: str, tmp_path: Path) -> AsyncIterator[ServiceProcess]:
    with services(["scheduler", "task"], own_kafka, tmp_path) as process:
        await process.ready()
        yield process


class Desk:
    """Tasks on a platform, as a person sees them."""

    def __init__(self, api: httpx.AsyncClient, bus: Bus, folder: Path) -> None:
        self.api, self.bus, self.folder = api, bus, folder

    async def submitted(
        self, code: str = "print(1)\n", *, start: bool = True, body: Any = None, **config: Any
    ) -> str:
        script = self.folder / "train.py"
        script.write_text(code)
        parameters = {"path": str(script), **config.pop("parameters", {})}
        document = {"recipe": "script", "parameters": parameters, **config}
        answer = await self.api.post("/tasks", json={"config": document, "start": start, **(body or {})})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["task_id"])

    async def show(self, task_id: str) -> dict[str, Any]:
        return dict((await self.api.get(f"/tasks/{task_id}")).json())

    async def until(self, task_id: str, within: float = 60, **fields: Any) -> dict[str, Any]:
        async def reached() -> dict[str, Any] | None:
            task = await self.show(task_id)
            return task if {name: task[name] for name in fields} == fields else None

        found: dict[str, Any] = await eventually(reached, within=within, what=f"{task_id}: {fields}")
        return found

    async def change(
        self, task_id: str, wait: float = 0, actor: str = "tests", **parameters: Any
    ) -> httpx.Response:
        confirm = parameters.pop("confirm", None)
        body = {"parameters": parameters, "reason": "a test", **({"confirm": confirm} if confirm else {})}
        headers = {"x-trainwright-actor": actor}
        return await self.api.patch(
            f"/tasks/{task_id}/parameters", json=body, params={"wait": wait}, headers=headers
        )

    async def log(self, task_id: str) -> dict[str, Any]:
        return dict((await self.api.get(f"/tasks/{task_id}/parameters")).json())


@pytest.fixture
async def desk(plane: ServiceProcess, own_kafka: str, tmp_path: Path) -> AsyncIterator[Desk]:
    async with listening(own_kafka) as bus, plane.client() as api:
        yield Desk(api, bus, tmp_path)


async def test_a_running_task_takes_over_what_was_changed_and_does_so_again_after_it_was_killed(
    desk: Desk, own_kafka: str, tmp_path: Path
) -> None:
    agent = Agent(tmp_path, own_kafka, desk.bus)
    await agent.start()
    gate = tmp_path / "gate"
    task_id = await desk.submitted(
        TRAINS,
        parameters={"gate": str(gate), "lr": 0.1, "depth": 2},
        hot={"lr": {"maximum": 1}},
        max_retries=1,
        retry={"unknown": {"delay": 0}},
    )

    async def at_step(step: int) -> bool:
        return bool((await desk.show(task_id))["progress"]["current_step"] >= step)

    try:
        await eventually(lambda: at_step(10), within=60, what="step 10")
        await _is_refused_what_does_not_fit(desk, task_id)
        asked = await desk.change(task_id, lr=0.05)
        assert (asked.status_code, asked.json()["state"], asked.json()["revision"]) == (202, "requested", 1)
        folder = agent.home / "attempts" / f"{task_id}.1"
        await eventually(lambda: _handed_over(folder, 1), within=30, what="the change to reach the run")
        gate.touch()
        task = await eventually(lambda: _answered(desk, task_id, 1), within=30, what="the run's answer")
        (change,) = task["parameter_changes"]
        assert (change["state"], change["step"], change["attempt"]) == ("applied", 11, 1)
        await eventually(lambda: at_step(20), within=30, what="step 20")

        rejected = await desk.change(task_id, lr=0.5)
        assert rejected.status_code == 202
        await eventually(lambda: _handed_over(folder, 2), within=30, what="the change to reach the run")
        shim = layout.read_json(folder / layout.SHIM)
        assert shim is not None
        os.kill(int(shim["child_pid"]), signal.SIGKILL)
        await eventually(lambda: _answered(desk, task_id, 2), within=60, what="the next run's answer")
        (tmp_path / "gate2").touch()
        done = await desk.until(task_id, status="completed")
        end = json.loads((agent.home / "attempts" / f"{task_id}.2" / layout.BUNDLE / "end.json").read_text())
        assert end["rates"] == {str(step): 0.1 if step < 11 else 0.05 for step in range(1, 31)}
        w = 1.0
        for rate in end["rates"].values():
            w -= rate * (w - 3.0)
        assert end["w"] == w, "the very bits of a run that nobody killed"
        assert done["overrides"] == {"lr": 0.05}
        assert done["config"]["parameters"]["lr"] == 0.1

        await _is_audited(desk, task_id)
    finally:
        agent.kill()


async def _is_refused_what_does_not_fit(desk: Desk, task_id: str) -> None:
    for parameters, says in (
        ({"lr": 2}, "must be at most 1"),
        ({"lr": "fast"}, 'must be a number like 0.1 (got "fast")'),
        ({"lr": True}, "must be a number like 0.1 (got true)"),
        ({"depth": 3}, "these can: lr"),
        ({"lrr": 3}, "did you mean 'lr'?"),
    ):
        refused = await desk.change(task_id, **parameters)
        assert refused.status_code == 422
        assert says in refused.json()["errors"][0]["message"]
    assert (await desk.change(task_id, lr=0.1)).json()["state"] == "unchanged"


async def _is_audited(desk: Desk, task_id: str) -> None:
    log = await desk.log(task_id)
    assert (log["parameters"]["lr"], log["revision"], log["applied_revision"]) == (0.05, 2, 1)
    first, second = log["changes"]
    assert (first["actor"], first["reason"], first["changes"]) == (
        "tests",
        "a test",
        {"lr": {"old": 0.1, "new": 0.05}},
    )
    assert (second["state"], second["step"], second["error"]) == ("rejected", None, "float division by zero")
    assert first["config_hash"] == log["config_hash"] != second["config_hash"]
    assert (await desk.change(task_id, lr=0.2)).status_code == 409
    history = (await desk.api.get(f"/tasks/{task_id}/history")).json()["entries"]
    assert any("holds from step 11" in entry["cause"] for entry in history)
    told = [one.revision for one in desk.bus.tape.of(UpdateParameters)]
    assert told[0] == 1
    assert len({(one.attempt.attempt, one.attempt.version) for one in desk.bus.tape.of(ParametersApplied)}) == 1
    assert [one.task.parameter_revision for one in desk.bus.tape.of(TaskParametersChanged)] == [1, 2]


def _handed_over(folder: Path, revision: int) -> bool:
    changes = (layout.read_json(folder / layout.CONTROL) or {}).get("parameters") or []
    return any(one["revision"] == revision for one in changes)


async def _answered(desk: Desk, task_id: str, revision: int) -> dict[str, Any] | None:
    task = await desk.show(task_id)
    changes = {one["revision"]: one["state"] for one in task["parameter_changes"]}
    return task if changes.get(revision, "requested") != "requested" else None


async def test_what_is_important_is_confirmed_and_what_no_run_has_seen_goes_with_the_next(desk: Desk) -> None:
    hot = {"lr": {"minimum": 0, "important": True}, "depth": {}}
    task_id = await desk.submitted(start=False, parameters={"lr": 0.1, "depth": 2}, hot=hot)
    first = await desk.change(task_id, lr=0.2)
    assert (first.status_code, first.json()["state"]) == (202, "confirmation_needed")
    assert first.json()["changes"] == {"lr": {"old": 0.1, "new": 0.2}}
    assert (await desk.log(task_id))["revision"] == 0, "nothing is changed yet"
    token = first.json()["confirm"]
    for others in ({"lr": 0.3}, {"lr": 0.2, "depth": 3}):
        refused = await desk.change(task_id, **{"confirm": token, **others})
        assert "other values" in refused.json()["detail"]
    assert (await desk.change(task_id, lr=0.2, confirm="confirm-nothing")).status_code == 409
    again = await desk.change(task_id, lr=0.2)
    assert again.json()["state"] == "confirmation_needed", "the same key twice is no second word"
    done = await desk.change(task_id, lr=0.2, confirm=token)
    assert (done.status_code, done.json()["state"], done.json()["revision"]) == (202, "requested", 1)
    assert (await desk.change(task_id, lr=0.2, confirm=token)).json()["state"] == "unchanged"
    await desk.change(task_id, lr=0.3)
    other = await desk.change(task_id, lr=0.3, actor="somebody-else")
    assert other.json()["revision"] == 2
    changes = (await desk.log(task_id))["changes"]
    assert [(one["actor"], one["confirmed_by"]) for one in changes] == [
        ("tests", "tests"),
        ("tests", "somebody-else"),
    ]
    refused = await desk.change(task_id, depth=2.5)
    assert (refused.status_code, refused.json()["errors"][0]) == (
        422,
        {"path": "parameters.depth", "message": "must be a whole number like 2 (got 2.5)"},
    )
    stale = (await desk.change(task_id, lr=0.4)).json()["confirm"]
    assert (await desk.change(task_id, depth=5)).json()["revision"] == 3, "what is not important needs no word"
    assert "changed meanwhile" in (await desk.change(task_id, lr=0.4, confirm=stale)).json()["detail"]
    await desk.api.post(f"/tasks/{task_id}/cancel")
    log = await desk.log(task_id)
    assert {one["state"] for one in log["changes"]} == {"rejected"}
    assert "over before" in log["changes"][0]["error"]
    bad = await desk.api.patch(f"/tasks/{task_id}/parameters", json={"parameters": {}, "reason": ""})
    assert {one["path"] for one in bad.json()["errors"]} == {"parameters", "reason"}
    assert (await desk.change("task-none", lr=1)).status_code == 404
    fraction = await desk.submitted(start=False, parameters={"lr": 0.1}, hot=["lr"])
    assert (await desk.change(fraction, lr=1)).json()["changes"] == {"lr": {"old": 0.1, "new": 1.0}}
    assert (await desk.change(fraction, lr=0.5)).status_code == 202, "1 has not made a whole number of it"
    undeclared = await desk.submitted(start=False, parameters={"lr": 0.1})
    assert "nothing is declared `hot`" in (await desk.change(undeclared, lr=0.2)).text


async def _is_made_once(desk: Desk, task_id: str) -> None:
    """Ask again with an Idempotency-Key once the script and the configuration are gone."""
    script = desk.folder / "once.py"
    script.write_text("print(1)")
    document = {"recipe": "script", "parameters": {"path": str(script)}}
    config_id = (await desk.api.post("/configs", json={"config": document})).json()["config_id"]
    asked: list[tuple[str, dict[str, Any]]] = [
        ("/tasks", {"config": document}),
        ("/tasks", {"config_id": config_id}),
        (f"/tasks/{task_id}/rerun", {"priority": 2}),
    ]

    async def answers() -> list[tuple[int, Any]]:
        found = []
        for number, (path, body) in enumerate(asked):
            answer = await desk.api.post(path, json=body, headers={"idempotency-key": f"once-{number}"})
            found.append((answer.status_code, answer.json()))
        return found

    first = await answers()
    assert [status for status, _ in first] == [201, 201, 201]
    script.unlink()
    assert (await desk.api.delete(f"/configs/{config_id}")).status_code == 204
    assert await answers() == first
    for path, body in asked:
        other = await desk.api.post(path, json={**body, "priority": 9}, headers={"idempotency-key": "once-0"})
        assert (other.status_code, other.json()["errors"][0]["path"]) == (422, "Idempotency-Key")


async def test_tasks_wait_for_others_and_fall_with_them(desk: Desk, own_kafka: str, tmp_path: Path) -> None:
    first = await desk.submitted(start=False)
    await _is_made_once(desk, first)
    second = await desk.submitted(body={"depends_on": [first, first]})
    third = await desk.submitted(body={"depends_on": [second]})
    apart = await desk.submitted(body={"depends_on": [second], "on_dependency_failure": "run"})
    task = await desk.show(second)
    assert (task["phase"], task["reason"]) == ("waiting_dependencies", f"waiting for {first} to complete")
    assert task["depends_on"] == [first]
    await _are_refused(desk, first, third, second)
    paused = await desk.api.post(f"/tasks/{third}/pause")
    assert paused.json()["status"] == "paused"
    resumed = await desk.api.post(f"/tasks/{third}/resume")
    assert (resumed.json()["status"], resumed.json()["phase"]) == ("pending", "waiting_dependencies")

    await _is_edited(desk, first)

    agent = Agent(tmp_path, own_kafka, desk.bus)
    await agent.start()
    try:
        assert (await desk.show(second))["phase"] == "waiting_dependencies"
        (tmp_path / "train.py").write_text("import sys; sys.exit('no data today')\n")
        failing = await desk.submitted("import sys; raise ValueError('no data today')\n", start=False)
        moved = await desk.api.patch(f"/tasks/{second}", json={"depends_on": [first, failing]})
        assert moved.json()["depends_on"] == [first, failing]
        await desk.api.post(f"/tasks/{first}/start")
        await desk.until(first, status="completed")
        await desk.until(second, reason=f"waiting for {failing} to complete")
        await desk.api.post(f"/tasks/{failing}/start")
        fallen = await desk.until(second, status="failed")
        assert fallen["reason"].startswith(f"{failing} (script), which it depends on, failed: ")
        last = await desk.until(third, status="failed")
        assert last["reason"].startswith(f"{failing} (script) failed, which it depends on through {second}: ")
        history = (await desk.api.get(f"/tasks/{third}/history")).json()["entries"]
        assert (history[-1]["cause"], history[-1]["actor"]) == ("dependency failed", "task")
        await desk.until(apart, status="completed")
    finally:
        agent.kill()
    late = await desk.api.post("/tasks", json={"config": task["config"], "depends_on": [failing]})
    assert "would never run" in late.text
    assert (await desk.api.patch(f"/tasks/{first}", json={"priority": 1})).status_code == 409
    assert (await desk.api.patch(f"/tasks/{apart}", json={"depends_on": []})).status_code == 409

    await _is_put_aside(desk, first, second)


async def _are_refused(desk: Desk, first: str, third: str, second: str) -> None:
    task = await desk.show(second)
    for body, says in (
        ({"depends_on": ["task-none"]}, "there is no task 'task-none'"),
        ({"depends_on": [first[:-1] + ("0" if first[-1] != "0" else "1")]}, f"did you mean '{first}'?"),
        ({"depends_on": "x"}, "valid list"),
    ):
        answer = await desk.api.post("/tasks", json={"config": task["config"], **body})
        assert answer.status_code == 422, answer.text
        assert says in answer.text
    for wish, says in (
        ({"depends_on": [third]}, f"they would wait for each other: {first} → {third} → {second} → {first}"),
        ({"depends_on": [first]}, "cannot wait for itself"),
    ):
        answer = await desk.api.patch(f"/tasks/{first}", json=wish)
        assert answer.status_code == 422
        assert says in answer.text


async def _is_edited(desk: Desk, first: str) -> None:
    changed = await desk.api.patch(f"/tasks/{first}", json={"priority": 9, "labels": {"a": "b"}, "name": "first"})
    assert (changed.json()["config"]["priority"], changed.json()["name"]) == (9, "first")
    version = changed.json()["version"]
    same = await desk.api.patch(f"/tasks/{first}", json={"priority": 9})
    assert same.json()["version"] == version
    assert (await desk.api.patch(f"/tasks/{first}", json={"priority": 2000})).status_code == 422
    assert (await desk.api.patch(f"/tasks/{first}", json={"strategi": "x"})).status_code == 422
    listed = (await desk.api.get("/tasks", params={"label": "a=b"})).json()
    assert [(one["task_id"], one["labels"], one["priority"]) for one in listed["tasks"]] == [
        (first, {"a": "b"}, 9)
    ]
    await eventually(lambda: desk.bus.tape.of(TaskReprioritised), within=20, what="TaskReprioritised")


async def _is_put_aside(desk: Desk, first: str, second: str) -> None:
    put_aside = await desk.api.post(f"/tasks/{first}/archive")
    assert put_aside.json()["archived_at"]
    assert (await desk.api.post(f"/tasks/{first}/archive")).json() == put_aside.json()
    waiting = await desk.submitted(start=False)
    assert (await desk.api.post(f"/tasks/{waiting}/archive")).status_code == 409
    ids = {one["task_id"] for one in (await desk.api.get("/tasks")).json()["tasks"]}
    assert first not in ids
    assert second in ids
    only = (await desk.api.get("/tasks", params={"archived": "only"})).json()
    assert ([one["task_id"] for one in only["tasks"]], only["total"]) == ([first], 1)
    assert (await desk.show(first))["status"] == "completed"


async def test_a_long_chain_falls_at_once_and_names_where_it_began(desk: Desk) -> None:
    chain = [await desk.submitted(start=False)]
    for _ in range(60):
        chain.append(await desk.submitted(body={"depends_on": [chain[-1]]}))
    await asyncio.gather(*(desk.api.get(f"/tasks/{one}") for one in chain[:5]))
    await desk.api.post(f"/tasks/{chain[0]}/cancel")
    last = await desk.show(chain[-1])
    assert (last["status"], last["reason"]) == (
        "cancelled",
        f"{chain[0]} (script) was cancelled, which it depends on through {chain[-2]}",
    )
