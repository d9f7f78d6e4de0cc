"""What a run saves: stored, told, fetched again; and what happens when something of it is damaged or away."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.integration.worker_harness import Agent, agent_at, is_alive, new_task, pid_of, second_agent
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.checkpoint import CheckpointKind, CheckpointManifest, area_of
from trainwright.contracts.log import LogStream
from trainwright.contracts.task import StopKind, TaskPhase
from trainwright.training import layout

TRAIN = """
import json, os, random, time, trainwright
run = trainwright.init()
open("pid.new", "w").write(str(os.getpid())); os.rename("pid.new", "pid")
random.seed(7)
state = {"value": 0.0}
print("begins after", run.resumed.step if run.resumed else 0)
for step in run.steps(60, checkpoint_every=10, state=state):
    state["value"] = state["value"] * 0.9 + random.random()
    run.log(step, {"loss": state["value"]})
    while step == run.parameters.get("hold") and not (run.stopping or os.path.exists("go")):
        if run.should_stop(): break
        time.sleep(0.01)
if step == 60:
    (run.output / "end.json").write_text(json.dumps([step, state["value"], random.random()]))
elif run.stopping:
    time.sleep(1)  # a save that takes a while
"""
LARGE = """
import os, time, trainwright
run = trainwright.init()
open("pid.new", "w").write(str(os.getpid())); os.rename("pid.new", "pid")
weights = os.urandom(48 * 2**20)
run.log(1, {"loss": 1.0})
run.checkpoint(1, weights=weights, wait=True)
while not os.path.exists("go"): time.sleep(0.01)
"""


@pytest.fixture
async def agent(kafka: str, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent_at(kafka, tmp_path) as made:
        yield made


async def test_a_paused_run_goes_on_elsewhere_and_ends_as_if_it_had_never_stopped(agent: Agent) -> None:
    await agent.start()
    straight, task = new_task(), new_task()
    await agent.run(straight, TRAIN)
    await agent.run(task, TRAIN, parameters={"hold": 33})
    saved = await agent.until_saved(task, count=2)
    assert [one.attempt for one in saved[-1].checkpoints] == [1] * len(saved[-1].checkpoints)
    await eventually(lambda: any(p.asks_stop for p in agent.progress(task)), within=10, what="asks_stop")
    await agent.ask_to_stop(task, kind=StopKind.PAUSE, grace_seconds=30, revision=4)
    ended = (await agent.until_ended(task)).attempt
    assert (ended.outcome, ended.failure, ended.final_step) == (Outcome.PAUSED, None, 33)
    newest = ended.checkpoints[0]
    assert (newest.step, newest.kind, newest.attempt) == (33, CheckpointKind.STOP, 1)
    assert agent.versions(task) == list(range(1, ended.version + 1))
    assert {TaskPhase.CHECKPOINTING, TaskPhase.FINISHING} <= {p.phase for p in agent.progress(task)}
    assert [line for line in agent.lines(task, LogStream.AGENT) if "never asked" in line] == []
    await eventually(
        lambda: not (agent.directory(task) / layout.CHECKPOINTS).exists(), within=5, what="a tidy folder"
    )
    with second_agent(agent) as other:
        await other.start()
        await other.run_again(task, TRAIN, 2, resume_from=ended.checkpoints)
        assert (await other.until_started(task, 2)).attempt.resume_step == 33
        moved, whole = await other.until_ended(task, 2), await agent.until_ended(straight)
        assert (moved.attempt.outcome, moved.attempt.final_step) == (Outcome.COMPLETED, 60)
        assert moved.attempt.checkpoints[0].kind is CheckpointKind.FINAL
        assert await other.json_of(moved, "end.json") == await agent.json_of(whole, "end.json")
        assert other.lines(task, attempt=2) == ["begins after 33"]
        await eventually(
            lambda: not (other.directory(task, 2) / layout.RESUME).exists(), within=5, what="a tidy folder"
        )


async def test_a_damaged_checkpoint_is_passed_over_and_none_at_all_is_said_loudly(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, TRAIN)
    ended = (await agent.until_ended(task)).attempt
    newest, older, oldest = (one for one in ended.checkpoints)
    area = agent.blobs.area(area_of(task))
    manifest = CheckpointManifest.model_validate_json(await area.read_bytes(newest.manifest))
    path = agent.folder / "blobs" / "areas" / area_of(task) / manifest.files["state.json"].sha256[:2]
    damaged = path / manifest.files["state.json"].sha256
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    await agent.run_again(task, TRAIN, 2, resume_from=ended.checkpoints)
    assert (await agent.until_started(task, 2)).attempt.resume_step == older.step
    assert (await agent.until_ended(task, 2)).attempt.outcome is Outcome.COMPLETED
    told = agent.lines(task, LogStream.AGENT, 2)
    assert f"the checkpoint of step {newest.step} is passed over: the stored content" in told[0]
    assert told[1] == f"the run goes on from its checkpoint of step {older.step}, the newest whole one"
    await area.delete(oldest.manifest)
    await agent.run_again(task, TRAIN, 3, resume_from=[oldest])
    assert (await agent.until_started(task, 3)).attempt.resume_step == 0
    assert (await agent.until_ended(task, 3)).attempt.outcome is Outcome.COMPLETED
    assert "NO CHECKPOINT OF 1 IS WHOLE" in agent.lines(task, LogStream.AGENT, 3)[-1]
    assert agent.lines(task, attempt=3) == ["begins after 0"]


async def test_while_the_store_is_away_the_training_goes_on_and_a_paused_run_waits_to_be_told(
    agent: Agent,
) -> None:
    await agent.start()
    task, cancelled = new_task(), new_task()
    for name in (task, cancelled):
        await agent.run(name, TRAIN, parameters={"hold": 25})
        await agent.until_started(name)
    areas = agent.folder / "blobs" / "areas"
    await agent.until_saved(task)
    aside = areas.rename(areas.with_name("aside"))
    areas.write_text("not a folder")
    for name in (task, cancelled):

        def is_said_to_heed(name: str = name) -> bool:
            return any(name in beat.heeding for beat in agent.heartbeats())

        await eventually(is_said_to_heed, within=20, what="a run that asks if it should stop, and saves")
        await agent.ask_to_stop(name, kind=StopKind.PAUSE, grace_seconds=30, revision=2)
        await eventually((agent.directory(name) / layout.EXIT).exists, within=20, what="an end")

    def says_that_it_waits(name: str) -> bool:
        return any("cannot be stored now" in line for line in agent.lines(name, LogStream.AGENT))

    await eventually(lambda: says_that_it_waits(task), within=10, what="the reason for waiting")
    await asyncio.sleep(1)
    assert agent.ends(task) == []
    await agent.ask_to_stop(cancelled, kind=StopKind.CANCEL, revision=3)
    assert (await agent.until_ended(cancelled, within=40)).attempt.outcome is Outcome.CANCELLED
    areas.unlink()
    aside.rename(areas)
    ended = (await agent.until_ended(task)).attempt
    assert (ended.outcome, ended.checkpoints[0].step) == (Outcome.PAUSED, 25)


async def test_what_a_fenced_run_saves_is_told_to_nobody(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    last_words = "import atexit; atexit.register(lambda: run.checkpoint(50, state=state, wait=True))\n"
    code = TRAIN.replace("for step in run.steps", f"{last_words}for step in run.steps")
    await agent.run(task, code, parameters={"hold": 15})
    (before,) = await agent.until_saved(task)
    await agent.run_again(task, TRAIN, 2, resume_from=before.checkpoints)
    fenced = (await agent.until_ended(task, 1)).attempt
    assert fenced.outcome is Outcome.INTERRUPTED
    assert fenced.checkpoints == before.checkpoints
    assert len(agent.saved(task)) == 1
    assert (await agent.until_ended(task, 2)).attempt.outcome is Outcome.COMPLETED


async def test_an_agent_killed_while_it_stores_a_checkpoint_stores_it_at_its_return(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, LARGE)
    incoming = agent.folder / "blobs" / "areas" / area_of(task) / "incoming"
    pid = await pid_of(agent, task)
    await eventually(
        lambda: incoming.is_dir() and any(incoming.iterdir()), within=20, what="an upload", every=0.001
    )
    agent.kill()
    assert agent.saved(task) == []
    await agent.start()
    (saved,) = await agent.until_saved(task)
    assert (saved.version, saved.checkpoints[0].step, is_alive(pid)) == (2, 1, True)
    (agent.directory(task) / "work" / "go").touch()
    assert (await agent.until_ended(task)).attempt.version == 3
    # Its own next attempt: killed while it fetches, this one is nobody's; the one after fetches all of it.
    await agent.run_again(task, LARGE, 2, resume_from=saved.checkpoints)
    part = agent.directory(task, 2) / "resume.part"
    await eventually(part.exists, within=20, what="a download", every=0.001)
    agent.kill()
    worker = await agent.start()
    assert worker.adopted == []
    assert not part.exists()
    await agent.run_again(task, LARGE, 3, resume_from=saved.checkpoints)
    assert (await agent.until_started(task, 3)).attempt.resume_step == 1
    (agent.directory(task, 3) / "work" / "go").touch()
    assert (await agent.until_ended(task, 3)).attempt.outcome is Outcome.COMPLETED


async def test_a_worker_that_is_stopped_lets_its_runs_save(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, TRAIN, parameters={"hold": 25})
    await agent.until_saved(task)
    assert await asyncio.to_thread(agent.stop) == 0
    ended = (await agent.until_ended(task)).attempt
    assert ended.outcome is Outcome.INTERRUPTED
    assert (ended.checkpoints[0].step, ended.checkpoints[0].kind) == (25, CheckpointKind.STOP)


async def test_what_repairs_changed_reaches_the_run(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    code = "import json, trainwright\nprint(json.dumps(trainwright.init({'rate': 1}).parameters))"
    await agent.run_again(
        task, code, 2, overrides={"rate": 0.25}, config={"parameters": {"rate": 0.5, "depth": 3}}
    )
    ended = await agent.until_ended(task, 2)
    assert json.loads(agent.lines(task, attempt=2)[0]) == {"rate": 0.25, "depth": 3}
    manifest = await agent.manifest(ended)
    assert manifest.metadata["overrides"] == {"rate": 0.25}
