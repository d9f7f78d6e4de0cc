"""The agent in bad days: whatever is killed, every attempt ends once, and every point arrives once."""

import asyncio
import itertools
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.trainer_worker import store
from services.trainer_worker.domain import AttemptState
from tests.harness import eventually
from tests.integration.worker_harness import STEPS, Agent, agent_at, assert_whole, is_alive, new_task, pid_of
from tests.kafka_fixture import own_broker
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.worker import AttemptRef, WorkerDraining
from trainwright.embedded.kafka import KafkaProcess
from trainwright.runtime.apply import DEAD_LETTERS
from trainwright.storage.sqlite import SqliteStore
from trainwright.training import layout

FAMILY = """
import os, time
def note(name):
    open(name + ".new", "w").write(str(os.getpid())); os.rename(name + ".new", name)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        note("daemon"); time.sleep(600)
    os._exit(0)
note("pid"); time.sleep(600)
"""


@pytest.fixture
async def agent(kafka: str, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent_at(kafka, tmp_path) as made:
        yield made


def shim_of(agent: Agent, task: str) -> int:
    shim = layout.read_json(agent.directory(task) / layout.SHIM)
    assert shim is not None
    return int(shim["shim_pid"])


async def test_a_killed_agent_finds_its_run_again_and_the_training_did_not_notice(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    pid = await pid_of(agent, task)
    for _ in range(3):
        await asyncio.sleep(0.7)
        agent.kill()
        await asyncio.sleep(0.2)
        worker = await agent.start()
        assert worker.adopted == [AttemptRef(task_id=task, attempt=1)]
        assert is_alive(pid)
    (agent.directory(task) / "work" / "enough").touch()
    await assert_whole(agent, task)


async def test_an_announced_restart_leaves_the_runs_alone_and_the_next_agent_finds_them(agent: Agent) -> None:
    before = await agent.start()
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    pid = await pid_of(agent, task)
    await agent.until_started(task)
    assert agent.process is not None
    agent.process.send_signal(signal.SIGHUP)
    assert await asyncio.to_thread(agent.process.wait, 60) == 0
    draining = [event.worker for event in agent.bus.tape.of(WorkerDraining)][-1]
    assert (draining.worker_id, draining.returns_within, draining.stopped) == (before.worker_id, 30, False)
    worker = await agent.start()
    assert (worker.draining, worker.returns_within) == (False, None)
    assert worker.adopted == [AttemptRef(task_id=task, attempt=1)]
    assert is_alive(pid)
    assert agent.ends(task) == []
    (agent.directory(task) / "work" / "enough").touch()
    await assert_whole(agent, task)


async def test_an_agent_killed_before_it_could_note_a_start_goes_on_with_the_run(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    pid = await pid_of(agent, task)
    started = (await agent.until_started(task)).attempt
    agent.kill()
    documents = SqliteStore(agent.home / "worker.db", (*store.COLLECTIONS, DEAD_LETTERS))
    await documents.open()
    async with documents.transaction() as tx:
        attempt = await store.attempt_of(tx, f"{task}.1")
        assert attempt is not None
        as_before = {"state": AttemptState.ACCEPTED, "started_at": None, "version": 0}
        await store.put_attempt(tx, attempt.model_copy(update=as_before))
    await documents.close()
    worker = await agent.start()
    assert worker.adopted == [AttemptRef(task_id=task, attempt=1)]
    (agent.directory(task) / "work" / "enough").touch()
    ended = (await agent.until_ended(task)).attempt
    assert (ended.outcome, ended.version) == (Outcome.COMPLETED, 2)
    assert ended.started_at is not None
    assert started.started_at is not None
    assert abs((ended.started_at - started.started_at).total_seconds()) < 1
    assert not is_alive(pid)


async def test_a_run_that_ended_while_no_agent_was_there_is_reported_by_the_next(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, STEPS.format(steps=40, pause=0.02))
    await pid_of(agent, task)
    agent.kill()
    await eventually((agent.directory(task) / layout.EXIT).exists, within=20, what="the run's own end")
    worker = await agent.start()
    assert worker.adopted == [AttemptRef(task_id=task, attempt=1)]
    await assert_whole(agent, task, 40)


async def test_agent_and_shim_killed_together_leave_no_process_and_no_adoption(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, FAMILY)
    family = [await pid_of(agent, task), await pid_of(agent, task, "daemon")]
    agent.kill()
    os.kill(shim_of(agent, task), signal.SIGKILL)
    assert is_alive(family[1])
    worker = await agent.start()
    assert worker.adopted == []
    assert [pid for pid in family if is_alive(pid)] == []
    assert agent.ends(task) == []


async def test_a_killed_shim_is_a_loss_and_takes_the_whole_family_with_it(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, FAMILY)
    family = [await pid_of(agent, task), await pid_of(agent, task, "daemon")]
    os.kill(shim_of(agent, task), signal.SIGKILL)
    ended = (await agent.until_ended(task)).attempt
    assert ended.outcome is Outcome.FAILED
    assert ended.failure is not None
    assert ended.failure.failure_class is FailureClass.WORKER_LOST
    assert [pid for pid in family if is_alive(pid)] == []


async def test_a_run_that_deletes_its_own_folder_fails_by_its_own_fault(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, "import os, shutil\nshutil.rmtree(os.environ['TRAINWRIGHT_RUN_DIR'])\n")
    ended = (await agent.until_ended(task)).attempt
    assert ended.failure is not None
    assert ended.failure.failure_class is FailureClass.USER_ERROR
    assert "deleted its own folder" in ended.failure.message


async def test_a_killed_child_fails_with_its_signal_and_what_it_had_logged_is_kept(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.005))
    pid = await pid_of(agent, task)
    await eventually(lambda: len(agent.points(task)) > 20, within=10, what="points")
    await asyncio.sleep(0.3)
    os.kill(pid, signal.SIGKILL)
    ended = (await agent.until_ended(task)).attempt
    assert ended.failure is not None
    assert (ended.outcome, ended.failure.signal) == (Outcome.FAILED, "SIGKILL")
    steps = [point.step for point in agent.points(task)]
    assert steps == list(range(1, len(steps) + 1))
    printed = len(agent.lines(task))
    assert printed - len(steps) < 50  # 20 ms of logging at most; lines are written at once


async def test_a_frame_cut_short_by_a_kill_is_ignored(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    code = (
        STEPS.format(steps=20, pause=0.01)
        + "\nrun.finish()\nopen('../spool/metrics-00000001.seg','ab').write(b'!!!')"
    )
    await agent.run(task, code)
    await assert_whole(agent, task, 20)


async def test_killed_at_any_moment_every_attempt_ends_once(agent: Agent) -> None:
    """Agents are killed while short runs start, run and end; what is not adopted is started anew, as a scheduler
    would.
    """
    await agent.start()
    tasks = [new_task() for _ in range(12)]
    newest = dict.fromkeys(tasks, 1)
    for task in tasks:
        await agent.run(task, STEPS.format(steps=10, pause=0.01))
    for pause in itertools.islice(itertools.cycle((0.05, 0.3, 0.12, 0.7)), 6):
        await asyncio.sleep(pause)
        agent.kill()
        worker = await agent.start()
        adopted = {(ref.task_id, ref.attempt) for ref in worker.adopted}
        for task in tasks:
            number = newest[task]
            if (task, number) not in adopted and not agent.ends(task, number):
                newest[task] += 1
                await agent.run(task, STEPS.format(steps=10, pause=0.01), attempt=number + 1)
    for task in tasks:
        number = newest[task]
        ended = await agent.until_ended(task, number, within=60)
        assert ended.attempt.outcome is Outcome.COMPLETED

        def has_all(task: str = task, number: int = number) -> bool:
            return [point.step for point in agent.points(task, number)] == list(range(1, 11))

        await eventually(has_all, within=10, what=f"ten points of {task}.{number}")
    assert {end.attempt.version for task in tasks for end in agent.ends(task, newest[task])} == {2}


@pytest.fixture
def own_kafka(tmp_path: Path) -> Iterator[KafkaProcess]:
    with own_broker(tmp_path / "kafka") as broker:
        yield broker


async def test_kafka_may_go_and_come_back_while_a_run_trains(own_kafka: KafkaProcess, tmp_path: Path) -> None:
    async with agent_at(own_kafka.bootstrap, tmp_path) as agent:
        await agent.start()
        task, short = new_task(), new_task()
        await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
        await agent.run(short, STEPS.format(steps=60, pause=0.02))
        pid = await pid_of(agent, task)
        await eventually(lambda: len(agent.points(task)) > 10, within=10, what="points")
        own_kafka.kill()
        await eventually((agent.directory(short) / layout.EXIT).exists, within=20, what="an end without Kafka")
        assert is_alive(pid)
        assert agent.process is not None
        assert agent.process.poll() is None
        await asyncio.sleep(2)
        own_kafka.start()
        own_kafka.wait_ready()
        await assert_whole(agent, short, 60)
        (agent.directory(task) / "work" / "enough").touch()
        await assert_whole(agent, task)


async def test_without_kafka_the_agent_still_leaves_in_time_and_the_next_one_says_the_rest(
    own_kafka: KafkaProcess, tmp_path: Path
) -> None:
    async with agent_at(own_kafka.bootstrap, tmp_path) as agent:
        await agent.start()
        task = new_task()
        await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
        pid = await pid_of(agent, task)
        await agent.until_started(task)
        own_kafka.kill()
        asked = time.monotonic()
        assert await asyncio.to_thread(agent.stop) == 0
        assert time.monotonic() - asked < 15
        assert not is_alive(pid)
        own_kafka.start()
        own_kafka.wait_ready()
        worker = await agent.start()
        assert worker.adopted == [AttemptRef(task_id=task, attempt=1)]
        assert (await agent.until_ended(task)).attempt.outcome is Outcome.INTERRUPTED


async def test_a_run_that_the_store_has_forgotten_is_ended(agent: Agent) -> None:
    before = await agent.start()
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    pid = await pid_of(agent, task)
    agent.kill()
    for path in agent.home.glob("worker.*"):
        path.unlink()
    agent.started = 0
    worker = await agent.start()
    assert worker.worker_id != before.worker_id
    await eventually(lambda: not is_alive(pid), within=10, what="the end of a run that nobody knows")


async def test_a_run_that_waited_too_long_for_an_agent_has_ended_and_is_to_run_again(agent: Agent) -> None:
    await agent.start(TRAINWRIGHT_WORKER_ORPHAN_SECONDS="1")
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    pid = await pid_of(agent, task)
    agent.kill()
    await eventually((agent.directory(task) / layout.EXIT).exists, within=20, what="its end")
    assert not is_alive(pid)
    await agent.start()
    ended = (await agent.until_ended(task)).attempt
    assert ended.outcome is Outcome.INTERRUPTED
    assert ended.failure is not None
    assert ended.failure.failure_class is FailureClass.WORKER_LOST
    assert ended.final_step == len(agent.points(task))
