"""What worker tests drive an agent with: a real process in its own home, and the scheduler's side of the talk."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from tests.harness import Bus, end, eventually, listening
from trainwright.contracts.attempt import (
    AttemptDocument,
    AttemptEnded,
    AttemptEvent,
    AttemptStarted,
    BundleManifest,
    CheckpointSaved,
    Outcome,
)
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.log import LogBatch, LogRecord, LogStream
from trainwright.contracts.metric import MetricBatch, MetricPoint
from trainwright.contracts.pulse import AttemptProgressed, WorkerHeartbeat
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import StopKind
from trainwright.contracts.task_config import FileRef, TaskConfig
from trainwright.contracts.worker import WorkerDocument, WorkerEvent, WorkerRegistered
from trainwright.runtime.clock import SystemClock
from trainwright.runtime.kafka import Kafka
from trainwright.runtime.settings import RuntimeSettings
from trainwright.storage.directory import DirectoryBlobs
from trainwright.training import layout

STEPS = """
import os, sys, time, trainwright
run = trainwright.init()
open("pid.new", "w").write(str(os.getpid())); os.rename("pid.new", "pid")
for step in range(1, {steps} + 1):
    run.log(step, {{"loss": 1 / step}}, total_steps={steps})
    print("step", step)
    time.sleep({pause})
    if os.path.exists("enough"): break
"""
"""A run that logs and prints its steps, up to a number or until a file is there."""


class Agent:
    """One worker and what the log says about it."""

    def __init__(self, folder: Path, bootstrap: str, bus: Bus, name: str = "worker") -> None:
        self.home = folder / name
        self.folder, self.bootstrap = folder, bootstrap
        self.blobs = DirectoryBlobs(folder / "blobs")
        self.bus = bus
        self.log = folder / f"{name}.agent.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.started = 0
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("TRAINWRIGHT_")},
            "TRAINWRIGHT_KAFKA": bootstrap,
            "TRAINWRIGHT_BLOBS": f"dir:{folder / 'blobs'}",
            "TRAINWRIGHT_WORKER_HOME": str(self.home),
            "TRAINWRIGHT_INTERNAL_TOKEN": "a-secret-that-no-run-may-see",
            "AWS_SECRET_ACCESS_KEY": "another",
        }

    def spawn(self, **env: str) -> None:
        """Start the process."""
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "services.trainer_worker"]
            self.process = subprocess.Popen(command, env={**self._env, **env}, stdout=log, stderr=log)

    async def start(self, **env: str) -> WorkerDocument:
        """Start the process and wait for its registration."""
        self.spawn(**env)
        self.started += 1
        found: WorkerDocument = await eventually(
            self._registered, within=30, what=f"a registration; see {self.log}"
        )
        return found

    def kill(self) -> None:
        """End the agent as a power cut would; its runs live on."""
        assert self.process is not None
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, within: float = 20) -> int:
        """End the agent in order; return its exit code."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(within)

    @property
    def worker(self) -> WorkerDocument:
        """Return the newest document of this worker."""
        return self._documents()[-1]

    def _documents(self, kind: type[WorkerEvent] = WorkerEvent) -> list[WorkerDocument]:
        identity = layout.read_json(self.home / "worker.json") or {}
        events = self.bus.tape.of(kind)
        return [event.worker for event in events if event.worker.worker_id == identity.get("worker_id")]

    def _registered(self) -> WorkerDocument | None:
        found = self._documents(WorkerRegistered)
        return found[-1] if len(found) >= self.started else None

    async def run(self, task_id: str, code: str, attempt: int = 1, **config: Any) -> None:
        """Send RunAttempt for a script."""
        command = await self.command(task_id, code, attempt, **config)
        await self.bus.say(command)

    async def run_again(self, task_id: str, code: str, attempt: int, **fields: Any) -> None:
        """Send RunAttempt for a script, as the scheduler does after a pause or a repair: with `resume_from` and
        other fields of the command.
        """
        command = await self.command(task_id, code, attempt, **fields.pop("config", {}))
        await self.bus.say(command.model_copy(update=fields))

    async def command(self, task_id: str, code: str, attempt: int = 1, **config: Any) -> RunAttempt:
        """Return a RunAttempt for a script whose content is stored as a blob."""
        blob = await self.blobs.write_bytes(code.encode())
        parameters = {"path": "train.py", **config.pop("parameters", {})}
        file = FileRef(path="train.py", sha256=blob.sha256, size=blob.size)
        values = {"recipe": "script", "parameters": parameters, "files": [file], **config}
        worker = self.worker
        return RunAttempt(
            worker_id=worker.worker_id,
            incarnation=worker.incarnation,
            task_id=task_id,
            attempt=attempt,
            name=task_id,
            config=TaskConfig(**values),
            slots=Slots(cpu=1),
        )

    async def ask_to_stop(self, task_id: str, attempt: int = 1, **fields: Any) -> None:
        """Send StopAttempt."""
        worker = self.worker
        values = {"kind": StopKind.CANCEL, "grace_seconds": 0, **fields}
        base = {"worker_id": worker.worker_id, "incarnation": worker.incarnation, "task_id": task_id}
        await self.bus.say(StopAttempt(**base, attempt=attempt, **values))

    async def until_started(self, task_id: str, attempt: int = 1) -> AttemptStarted:
        """Wait for an attempt's start."""
        found: AttemptStarted = await eventually(
            lambda: next((e for e in self._of(AttemptStarted, task_id, attempt)), None),
            within=20,
            what=f"the start of {task_id}; see {self.log}",
        )
        return found

    async def until_ended(self, task_id: str, attempt: int = 1, within: float = 30) -> AttemptEnded:
        """Wait for an attempt's end."""
        found: AttemptEnded = await eventually(
            lambda: next((e for e in self._of(AttemptEnded, task_id, attempt)), None),
            within=within,
            what=f"the end of {task_id}; see {self.log}",
        )
        return found

    async def until_saved(
        self, task_id: str, attempt: int = 1, count: int = 1, within: float = 30
    ) -> list[AttemptDocument]:
        """Wait for so many checkpoints of an attempt; return what was said with each."""

        def enough() -> list[CheckpointSaved]:
            found = self.saved(task_id, attempt)
            return found if len(found) >= count else []

        found: list[CheckpointSaved] = await eventually(
            enough,
            within=within,
            what=f"{count} checkpoints of {task_id}; see {self.log}",
        )
        return [event.attempt for event in found]

    def saved(self, task_id: str, attempt: int = 1) -> list[CheckpointSaved]:
        """Return what was said of an attempt's checkpoints."""
        return self._of(CheckpointSaved, task_id, attempt)

    def versions(self, task_id: str, attempt: int = 1) -> list[int]:
        """Return the versions of an attempt's document in the order in which they were said, repeats left out."""
        said = self._of(AttemptEvent, task_id, attempt)
        return list(dict.fromkeys(event.attempt.version for event in said))

    def _of(self, kind: Any, task_id: str, attempt: int) -> list[Any]:
        events = self.bus.tape.of(kind)
        return [e for e in events if (e.attempt.task_id, e.attempt.attempt) == (task_id, attempt)]

    def ends(self, task_id: str, attempt: int = 1) -> list[AttemptEnded]:
        """Return how often an end was said."""
        return self._of(AttemptEnded, task_id, attempt)

    def points(self, task_id: str, attempt: int = 1) -> list[MetricPoint]:
        """Return an attempt's points as a reader keeps them: by number, repeats ignored."""
        found: dict[int, MetricPoint] = {}
        for batch in self.bus.tape.of(MetricBatch):
            if (batch.task_id, batch.attempt) == (task_id, attempt):
                for point in batch.points:
                    found.setdefault(point.seq, point)
        return [found[seq] for seq in sorted(found)]

    def records(self, task_id: str, stream: LogStream, attempt: int = 1) -> list[LogRecord]:
        """Return an attempt's log records as a reader keeps them."""
        found: dict[int, LogRecord] = {}
        for batch in self.bus.tape.of(LogBatch):
            if (batch.task_id, batch.attempt, batch.stream) == (task_id, attempt, stream):
                for record in batch.records:
                    found.setdefault(record.seq, record)
        return [found[seq] for seq in sorted(found)]

    def lines(self, task_id: str, stream: LogStream = LogStream.STDOUT, attempt: int = 1) -> list[str]:
        """Return the messages of a stream."""
        return [record.message for record in self.records(task_id, stream, attempt)]

    def heartbeats(self) -> list[WorkerHeartbeat]:
        """Return the heartbeats of this incarnation."""
        wanted = self.worker.incarnation
        return [beat for beat in self.bus.tape.of(WorkerHeartbeat) if beat.incarnation == wanted]

    def progress(self, task_id: str) -> list[AttemptProgressed]:
        """Return the progress of a task."""
        return [event for event in self.bus.tape.of(AttemptProgressed) if event.task_id == task_id]

    def directory(self, task_id: str, attempt: int = 1) -> Path:
        """Return an attempt's folder."""
        return self.home / "attempts" / f"{task_id}.{attempt}"

    async def manifest(self, event: AttemptEnded) -> BundleManifest:
        """Return the manifest that an ending names."""
        assert event.attempt.bundle is not None
        return BundleManifest.model_validate_json(await self.blobs.read_bytes(event.attempt.bundle))

    async def json_of(self, event: AttemptEnded, name: str) -> Any:
        """Return a JSON file of the bundle."""
        manifest = await self.manifest(event)
        return json.loads(await self.blobs.read_bytes(manifest.files[name].sha256))

    def clean_up(self) -> None:
        """Kill the agent and whatever of its runs still lives."""
        if self.process is not None:
            end(self.process)
        mark = f"{layout.RUN_DIR_VARIABLE}={self.home}/".encode()
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if any(item.startswith(mark) for item in (entry / "environ").read_bytes().split(b"\0")):
                        os.kill(int(entry.name), signal.SIGKILL)
                except (OSError, ProcessLookupError):
                    continue


@asynccontextmanager
async def agent_at(bootstrap: str, folder: Path) -> AsyncIterator[Agent]:
    """Give an agent that is not started yet, on a bus whose topics exist."""
    await Kafka(RuntimeSettings(kafka=bootstrap)).ensure_topics()
    async with listening(bootstrap) as bus:
        made = Agent(folder, bootstrap, bus)
        try:
            yield made
        finally:
            made.clean_up()


@contextmanager
def second_agent(first: Agent) -> Iterator[Agent]:
    """Give another worker, with a home of its own and the same blobs."""
    made = Agent(first.folder, first.bootstrap, first.bus, name="second")
    try:
        yield made
    finally:
        made.clean_up()


def is_alive(pid: int) -> bool:
    """Return whether a process lives."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def pid_of(agent: Agent, task: str, name: str = "pid") -> int:
    """Wait for the pid that a run notes."""
    path = agent.directory(task) / "work" / name
    await eventually(path.exists, within=20, what=str(path))
    return int(path.read_text())


def new_task() -> str:
    """Return a new task's id."""
    return SystemClock().new_id("task")


async def assert_whole(agent: Agent, task: str, steps: int = 0) -> None:
    """Check that every point and line of a finished run has arrived, and its end was said once."""
    ended = await agent.until_ended(task, within=60)
    assert ended.attempt.outcome is Outcome.COMPLETED
    steps = steps or ended.attempt.final_step or 0
    assert ended.attempt.final_step == steps
    await eventually(lambda: len(agent.points(task)) == steps, within=10, what=f"{steps} points")
    assert [point.step for point in agent.points(task)] == list(range(1, steps + 1))
    await eventually(lambda: len(agent.lines(task)) == steps, within=10, what=f"{steps} lines")
    assert agent.lines(task) == [f"step {step}" for step in range(1, steps + 1)]
    assert len({(end.attempt.version, end.attempt.outcome) for end in agent.ends(task)}) == 1
