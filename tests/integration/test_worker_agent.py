"""The agent in good days: it registers, runs what it is told, says all of it, and ends in order."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.harness import eventually
from tests.integration.worker_harness import Agent, agent_at, new_task
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.base import iso
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.log import LogLevel, LogStream
from trainwright.contracts.task import TaskPhase
from trainwright.contracts.task_config import FileRef
from trainwright.contracts.worker import AttemptRef, WorkerDraining, WorkerStopped

TRAIN = """
import sys, time, trainwright
run = trainwright.init({"rate": 0.5})
print("training with", run.parameters["rate"], *sys.argv[1:])
for step in range(1, 51):
    run.log(step, {"loss": 1 / step}, total_steps=50)
(run.output / "model.txt").write_text("weights")
print("done", file=sys.stderr)
"""
WAIT = """
import os, time, trainwright
run = trainwright.init()
run.log(1, {"loss": 1.0})
open("pid.new", "w").write(str(os.getpid())); os.rename("pid.new", "pid")
while not run.should_stop(): time.sleep(0.01)
print("stopping")
"""


@pytest.fixture
async def agent(kafka: str, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent_at(kafka, tmp_path) as made:
        yield made


async def test_a_script_runs_from_command_to_bundle(agent: Agent) -> None:
    worker = await agent.start()
    assert worker.cpus > 0
    assert worker.memory > 2**28
    assert worker.adopted == []
    task = new_task()
    await agent.run(task, TRAIN, parameters={"rate": 0.1, "args": ["--epochs", 3]})
    started = await agent.until_started(task)
    assert (started.attempt.version, started.attempt.worker_id) == (1, worker.worker_id)
    await eventually(lambda: agent.lines(task), within=10, what="the first line")
    ended = (await agent.until_ended(task)).attempt
    assert (ended.outcome, ended.version, ended.failure) == (Outcome.COMPLETED, 2, None)
    assert (ended.final_step, ended.total_steps, ended.latest_metrics) == (50, 50, {"loss": 0.02})
    await eventually(lambda: len(agent.points(task)) == 50, within=5, what="50 points")
    assert [point.step for point in agent.points(task)] == list(range(1, 51))
    assert agent.lines(task) == ["training with 0.1 --epochs 3"]
    assert agent.lines(task, LogStream.STDERR) == ["done"]
    assert agent.records(task, LogStream.STDERR)[0].level is LogLevel.WARNING


async def test_the_bundle_holds_files_history_and_metadata(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, TRAIN)
    ended = await agent.until_ended(task)
    manifest = await agent.manifest(ended)
    assert set(manifest.files) == {"model.txt", "history.json", "metadata.json"}
    assert await agent.blobs.read_bytes(manifest.files["model.txt"].sha256) == b"weights"
    history = await agent.json_of(ended, "history.json")
    assert history["metrics"]["loss"][:2] == [[1, 1.0], [2, 0.5]]
    assert manifest.metadata == await agent.json_of(ended, "metadata.json")
    assert manifest.metadata["task_id"] == task
    assert "train.py" in manifest.metadata["file_hashes"]
    assert "a-secret" not in manifest.model_dump_json()


async def test_a_run_sees_no_credentials_and_no_gpu_that_is_not_its_own(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    code = """
import os
for name, value in sorted(os.environ.items()):
    if "TRAINWRIGHT" in name or "SECRET" in name or name == "CUDA_VISIBLE_DEVICES": print(name, "=", value)
print(os.getcwd())
"""
    await agent.run(task, code)
    await agent.until_ended(task)
    directory = agent.directory(task)
    assert agent.lines(task) == [
        "CUDA_VISIBLE_DEVICES = ",
        f"TRAINWRIGHT_RUN_DIR = {directory}",
        f"TRAINWRIGHT_RUN_ID = {task}/1",
        str(directory / "work"),
    ]


async def test_heartbeats_list_what_runs_and_what_ended(agent: Agent) -> None:
    await agent.start(TRAINWRIGHT_WORKER_HEARTBEAT_SECONDS="0.2")
    task = new_task()
    ref = AttemptRef(task_id=task, attempt=1)
    await agent.run(task, WAIT)
    await agent.until_started(task)
    await eventually(lambda: ref in agent.heartbeats()[-1].running, within=5, what="a running attempt")
    await eventually(lambda: agent.heartbeats()[-1].usage.memory, within=5, what="a measured use")
    progress = await eventually(lambda: agent.progress(task), within=5, what="progress")
    assert {event.phase for event in progress} <= {TaskPhase.STARTING, TaskPhase.TRAINING}
    await agent.ask_to_stop(task, grace_seconds=10)
    ended = await agent.until_ended(task)
    assert ended.attempt.outcome is Outcome.CANCELLED
    await eventually(lambda: ref in agent.heartbeats()[-1].ended, within=5, what="an ended attempt")
    assert ref not in agent.heartbeats()[-1].running
    assert agent.lines(task) == ["stopping"]
    seqs = [event.seq for event in agent.progress(task)]
    assert seqs == sorted(set(seqs))
    phases = [event.phase for event in agent.progress(task)]
    assert TaskPhase.STOPPING in phases
    assert any("asked to stop (cancel)" in line for line in agent.lines(task, LogStream.AGENT))


async def test_a_script_that_never_asks_is_ended_at_the_deadline(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, "import time; print('deaf'); time.sleep(600)")
    await agent.until_started(task)
    await eventually(lambda: agent.lines(task), within=5, what="its line")
    asked = time.monotonic()
    await agent.ask_to_stop(task, grace_seconds=1)
    ended = await agent.until_ended(task)
    assert ended.attempt.outcome is Outcome.CANCELLED
    assert 0.9 < time.monotonic() - asked < 60


async def test_a_stop_that_comes_with_its_start_ends_what_never_began(agent: Agent) -> None:
    await agent.start()
    agent.kill()
    worker, task = agent.worker, new_task()
    # Both wait in the log before the agent reads them: addressed to an incarnation that is gone, they are refused.
    await agent.run(task, WAIT)
    await agent.ask_to_stop(task)
    again = await agent.start()
    assert again.worker_id == worker.worker_id
    assert again.incarnation != worker.incarnation
    assert again.version > worker.version
    other = new_task()
    command = await agent.command(other, WAIT)
    stop = agent.ask_to_stop(other)
    await asyncio.gather(agent.bus.say(command), stop)
    assert (await agent.until_ended(other)).attempt.outcome is Outcome.CANCELLED
    assert not agent.directory(task).exists()


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        (
            "import trainwright\nrun = trainwright.init()\nrun.log(1, {'loss': 'x'})\n",
            FailureClass.USER_ERROR,
            "TypeError",
        ),
        ("def broken(:\n", FailureClass.USER_ERROR, "SyntaxError"),
        ("import no_such_package\n", FailureClass.ENVIRONMENT_ERROR, "ModuleNotFoundError"),
        ("import os; os.abort()\n", FailureClass.UNKNOWN, "SIGABRT"),
    ],
)
async def test_a_failure_is_classified_and_its_traceback_is_one_record(
    agent: Agent, code: str, kind: FailureClass, message: str
) -> None:
    await agent.start()
    task = new_task()
    await agent.run(task, code)
    ended = (await agent.until_ended(task)).attempt
    assert ended.outcome is Outcome.FAILED
    assert ended.failure is not None
    assert ended.failure.failure_class is kind
    assert message in ended.failure.message
    assert ended.bundle is None
    if ended.failure.traceback:
        (record,) = [r for r in agent.records(task, LogStream.STDERR) if r.level is LogLevel.ERROR]
        assert (message if ended.failure.exception else "Fatal Python error: Aborted") in record.message
        assert ended.failure.file == "train.py"


async def test_what_cannot_be_prepared_ends_with_the_reason(agent: Agent) -> None:
    await agent.start()
    missing, no_data, no_script = (new_task() for _ in range(3))
    file = FileRef(path="train.py", sha256="0" * 64, size=1)
    await agent.run(missing, "", files=[file])
    await agent.run(no_data, TRAIN, data={"path": "sales.csv"})
    await agent.run(no_script, TRAIN, parameters={"path": "other.py"})
    expected = {
        missing: (FailureClass.DATA_ERROR, "file train.py: no content with sha256 000"),
        no_data: (FailureClass.DATA_ERROR, "data path sales.csv does not exist on this worker"),
        no_script: (FailureClass.USER_ERROR, "the script other.py is not among the task's files"),
    }
    for task, (kind, message) in expected.items():
        failure = (await agent.until_ended(task)).attempt.failure
        assert failure is not None
        assert (failure.failure_class, message in failure.message) == (kind, True), failure


async def test_commands_for_others_late_or_fenced_are_refused(agent: Agent) -> None:
    worker = await agent.start()
    late, stranger, task = new_task(), new_task(), new_task()
    past = {"not_after": worker.registered_at}
    await agent.bus.say((await agent.command(late, TRAIN)).model_copy(update=past))
    old = {"incarnation": "incarnation-of-yesterday"}
    await agent.bus.say((await agent.command(stranger, TRAIN)).model_copy(update=old))
    await agent.run(task, WAIT, attempt=2)
    await agent.until_started(task, 2)
    await agent.run(task, TRAIN, attempt=1)
    await agent.run(task, TRAIN, attempt=3)
    assert (await agent.until_ended(task, 3)).attempt.outcome is Outcome.COMPLETED
    assert (await agent.until_ended(task, 2)).attempt.outcome is Outcome.INTERRUPTED
    assert {path.name for path in (agent.home / "attempts").iterdir()} == {f"{task}.2", f"{task}.3"}
    assert iso(worker.registered_at) < iso(agent.worker.registered_at) or agent.worker == worker


async def test_one_home_one_agent(agent: Agent) -> None:
    await agent.start()
    second = Agent(agent.home.parent, "127.0.0.1:1", agent.bus)
    second.log = agent.home.parent / "second.log"
    second.spawn()
    assert second.process is not None
    assert second.process.wait(20) == 1
    assert agent.process is not None
    expected = f"trainwright worker: another worker (pid {agent.process.pid}) works in {agent.home}; "
    assert second.log.read_text().strip() == expected + "give this one a home of its own"


async def test_told_to_leave_it_ends_its_runs_so_that_they_run_again(agent: Agent) -> None:
    await agent.start()
    task, deaf = new_task(), new_task()
    await agent.run(task, WAIT)
    await agent.run(deaf, "import time; time.sleep(600)")
    await agent.until_started(task)
    await agent.until_started(deaf)
    left = time.monotonic()
    assert await asyncio.to_thread(agent.stop) == 0
    assert time.monotonic() - left < 15
    for name in (task, deaf):
        ended = (await agent.until_ended(name)).attempt
        assert ended.outcome is Outcome.INTERRUPTED
        assert ended.failure is not None
        assert ended.failure.failure_class is FailureClass.WORKER_LOST
    kinds = [type(e) for e in agent.bus.tape.events if isinstance(e, WorkerDraining | WorkerStopped)]
    assert kinds[-2:] == [WorkerDraining, WorkerStopped]
    pid = int((agent.directory(task) / "work" / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


async def test_a_thousand_lines_and_points_arrive_once_and_in_order(agent: Agent) -> None:
    await agent.start()
    task = new_task()
    code = """
import sys, trainwright
run = trainwright.init()
for step in range(1, 5001):
    run.log(step, {"loss": step * 0.5, "nan": float("nan")})
    print("line", step)
sys.stdout.write("no newline at the end")
"""
    await agent.run(task, code)
    await agent.until_ended(task)
    await eventually(lambda: len(agent.points(task)) == 5000, within=10, what="5000 points")
    await eventually(lambda: len(agent.lines(task)) == 5001, within=10, what="5001 lines")
    assert [point.seq for point in agent.points(task)] == list(range(1, 5001))
    assert str(agent.points(task)[9].values) == "{'loss': 5.0, 'nan': nan}"
    assert agent.lines(task)[-2:] == ["line 5000", "no newline at the end"]
