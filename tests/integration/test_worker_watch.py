"""Runs in trouble: hung, diverged, out of time; and runs that only look like it."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.integration.worker_harness import Agent, agent_at, is_alive, new_task, pid_of
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.log import LogStream
from trainwright.contracts.task import StopKind
from trainwright.contracts.task_config import Watch

SETUP = """
import os, sys, threading, time, trainwright
run = trainwright.init()
def note(name):
    open(name + ".new", "w").write(str(os.getpid())); os.rename(name + ".new", name)
note("pid")
"""
DEADLOCK = (
    SETUP
    + """
first, second, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def take(one, other):
    with one:
        both.wait()
        other.acquire()
if os.fork() == 0:
    os.setsid()
    note("grandchild")
    time.sleep(600)
for step in range(1, 31):
    run.log(step, {"loss": 1 / step})
    time.sleep(0.01)
threading.Thread(target=take, args=(second, first), name="helper").start()
take(first, second)
"""
)
DIVERGES = (
    SETUP
    + """
for step in run.steps(100_000, checkpoint_every=50, state={"value": 1}):
    run.log(step, {"loss": float("nan") if step >= 125 else 1 / step})
    time.sleep(0.02)
"""
)
TRAINS = (
    SETUP
    + """
state = {"value": 0}
for step in run.steps(100_000, checkpoint_every=1000, state=state):
    state["value"] = step
    run.log(step, {"loss": 1 / step})
    time.sleep(0.01)
    if os.path.exists("enough"): break
"""
)
IDLES = (
    SETUP
    + """
for step in run.steps(100_000, state={"value": 1}):
    run.log(step, {"loss": 1 / step})
    while step == 3 and not run.should_stop(): time.sleep(0.2)
"""
)
WATCH = Watch(hang_after=1)


@pytest.fixture
async def agent(kafka: str, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent_at(kafka, tmp_path) as made:
        yield made


async def test_a_deadlock_is_ended_with_the_stacks_of_all_threads_and_nothing_survives(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, DEADLOCK, watch=WATCH)
    pids = [await pid_of(agent, task), await pid_of(agent, task, "grandchild")]
    ended = (await agent.until_ended(task, within=60)).attempt
    assert ended.outcome is Outcome.FAILED
    assert ended.failure is not None
    assert (ended.failure.failure_class, ended.failure.signal) == (FailureClass.HUNG, "SIGABRT")
    assert "after step 30" in ended.failure.message
    assert (ended.failure.file, ended.failure.line) == ("train.py", 12)
    stacks = ended.failure.traceback
    assert stacks is not None
    assert stacks.startswith("Fatal Python error: Aborted")
    assert stacks.count("in take") == 2
    assert not any(is_alive(pid) for pid in pids)
    assert not list((agent.directory(task) / "work").glob("core*"))


async def test_a_run_that_diverges_is_ended_and_the_first_bad_step_is_named(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, DIVERGES)
    ended = (await agent.until_ended(task)).attempt
    assert ended.outcome is Outcome.FAILED
    assert ended.failure is not None
    assert (ended.failure.failure_class, ended.failure.bad_step) == (FailureClass.DIVERGED, 125)
    assert [one.step for one in ended.checkpoints] == [100, 50]


async def test_a_run_out_of_time_saves_first_and_an_agents_restart_gives_it_none(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run_again(task, TRAINS, 1, timeout_seconds=7)
    pid = await pid_of(agent, task)
    agent.kill()
    await agent.start()
    assert is_alive(pid)
    ended = (await agent.until_ended(task)).attempt
    assert ended.outcome is Outcome.FAILED
    assert ended.failure is not None
    assert ended.failure.failure_class is FailureClass.TIMED_OUT
    assert "the task's timeout is 7" in ended.failure.message
    assert ended.final_step is not None
    assert ended.checkpoints[0].step == ended.final_step
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert 7 <= (ended.ended_at - ended.started_at).total_seconds() < 11


async def test_a_run_that_is_held_or_whose_agent_was_held_is_not_taken_for_hung(agent: Agent) -> None:
    await agent.start()
    alone, together = new_task(), new_task()
    pids = []
    for task in (alone, together):  # each is held once: a pause that ended by itself makes a watcher patient
        await agent.run(task, TRAINS, watch=WATCH)
        pids.append(await pid_of(agent, task))
        await until_further(agent, task, 30)
    assert agent.process is not None
    for task, held in ((alone, [pids[0]]), (together, [pids[1], agent.process.pid])):
        for pid in held:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(6)
        for pid in held:
            os.kill(pid, signal.SIGCONT)
        await until_further(agent, task, 50)
    for task in (alone, together):
        (agent.directory(task) / "work" / "enough").touch()
        assert (await agent.until_ended(task)).attempt.outcome is Outcome.COMPLETED


async def test_an_idle_run_saves_and_gives_its_place_back(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, IDLES, watch=Watch(hang=False, idle_after=3))
    ended = (await agent.until_ended(task)).attempt
    assert (ended.outcome, ended.failure) == (Outcome.PAUSED, None)
    assert ended.given_back is not None
    assert ended.given_back.startswith("its processes have done nothing for 3")
    assert [one.step for one in ended.checkpoints] == [3]


async def until_further(agent: Agent, task: str, steps: int) -> None:
    """Wait until a run has taken some more steps."""
    seen = len(agent.points(task))
    await eventually(lambda: len(agent.points(task)) > seen + steps, within=20, what=f"{steps} more steps")


RACES = """
import os, time, trainwright
run = trainwright.init()
run.log(1, {"loss": 1.0})
open("ready", "w").close()
while not os.path.exists("go"): time.sleep(0.01)
"""


async def test_a_pause_races_with_every_other_end(agent: Agent) -> None:
    await agent.start()
    deaf, well, fails, cancelled = (new_task() for _ in range(4))
    for task in (deaf, well, cancelled):
        await agent.run(task, RACES)
    await agent.run(fails, RACES + "raise KeyError('colour')\n")
    for task in (deaf, well, fails, cancelled):
        await eventually((agent.directory(task) / "work" / "ready").exists, within=20, what="a run")
    await agent.ask_to_stop(deaf, kind=StopKind.PAUSE, grace_seconds=1, revision=2)
    for task in (well, fails, cancelled):
        await agent.ask_to_stop(task, kind=StopKind.PAUSE, grace_seconds=120, revision=2)
        await eventually((agent.directory(task) / "control.json").exists, within=10, what="the request")
    for task in (well, fails):
        (agent.directory(task) / "work" / "go").touch()
    await agent.ask_to_stop(cancelled, kind=StopKind.CANCEL, grace_seconds=0.5, revision=3)
    assert (await agent.until_ended(deaf)).attempt.outcome is Outcome.PAUSED
    assert (await agent.until_ended(well)).attempt.outcome is Outcome.COMPLETED
    failed = (await agent.until_ended(fails)).attempt
    assert failed.failure is not None
    assert (failed.outcome, failed.failure.failure_class) == (Outcome.FAILED, FailureClass.USER_ERROR)
    assert (await agent.until_ended(cancelled)).attempt.outcome is Outcome.CANCELLED
    told = agent.lines(deaf, LogStream.AGENT)
    assert told == [
        "asked to stop (pause); it is ended in 1 s if it does not: it has never asked if it should; "
        "later it goes on from the beginning"
    ]


async def test_a_pause_before_the_start_needs_no_process(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    command = await agent.command(task, RACES)
    pause = agent.ask_to_stop(task, kind=StopKind.PAUSE, grace_seconds=30, revision=2)
    await asyncio.gather(agent.bus.say(command), pause)
    assert (await agent.until_ended(task)).attempt.outcome is Outcome.PAUSED
