"""The agent whose own store or home fails it: what waits, what is said, and that nothing is lost."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from tests.harness import end, eventually, reachable
from tests.integration.worker_harness import STEPS, Agent, agent_at, assert_whole, is_alive, new_task, pid_of
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.dead import DeadLettered
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.topics import COMMAND
from trainwright.contracts.worker import AttemptRef
from trainwright.training import layout


@pytest.fixture
async def agent(kafka: str, tmp_path: Path) -> AsyncIterator[Agent]:
    async with agent_at(kafka, tmp_path) as made:
        yield made


@contextmanager
def held(agent: Agent) -> Iterator[None]:
    """Be another process that holds the agent's store until the end of the block: it can be read, not written."""
    other = sqlite3.connect(agent.home / "worker.db", isolation_level=None, timeout=20)
    other.execute("BEGIN IMMEDIATE")
    try:
        yield
    finally:
        other.execute("ROLLBACK")
        other.close()


async def says(agent: Agent, words: str) -> None:
    """Wait for something in the agent's log."""
    await eventually(lambda: words in agent.log.read_text(), within=30, what=f"{words!r}; see {agent.log}")


async def test_while_its_store_is_held_all_waits_and_nothing_is_lost_or_told_twice(agent: Agent) -> None:
    await agent.start()
    task, later = new_task(), new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    await pid_of(agent, task)
    await eventually(lambda: len(agent.points(task)) > 10, within=20, what="points")
    with held(agent):
        await agent.run(later, STEPS.format(steps=20, pause=0.01))
        await says(agent, "commands wait for the store")
        await says(agent, "metrics and logs wait in their files")
        (agent.directory(task) / "work" / "enough").touch()
        await says(agent, f"{task}.1 waits for a store")
        assert not agent.directory(later).exists()
        assert agent.ends(task) == []
    await assert_whole(agent, task)
    await assert_whole(agent, later, 20)
    assert agent.versions(task) == [1, 2]


@pytest.mark.parametrize(
    ("number", "words"),
    [(signal.SIGTERM, "left without a word: "), (signal.SIGHUP, "left without a word, the runs go on: ")],
)
async def test_an_agent_that_can_note_nothing_leaves_its_runs_to_the_next(
    agent: Agent, number: int, words: str
) -> None:
    await agent.start(TRAINWRIGHT_WORKER_ORPHAN_SECONDS="120")
    task = new_task()
    await agent.run(task, STEPS.format(steps=100_000, pause=0.02))
    pid = await pid_of(agent, task)
    await agent.until_started(task)
    assert agent.process is not None
    with held(agent):
        agent.process.send_signal(number)
        assert await asyncio.to_thread(agent.process.wait, 60) == 0
        assert words in agent.log.read_text()
    assert is_alive(pid)
    worker = await agent.start()
    assert worker.adopted == [AttemptRef(task_id=task, attempt=1)]
    (agent.directory(task) / "work" / "enough").touch()
    await assert_whole(agent, task)


async def test_a_command_that_cannot_be_read_is_put_aside_and_those_beside_it_are_obeyed(agent: Agent) -> None:
    worker = await agent.start()
    first, second = new_task(), new_task()
    poison = [("ce_id", b"1"), ("ce_type", b"trainwright.command.RunAttempt.v1"), ("ce_source", b"/tests")]
    assert agent.process is not None
    agent.process.send_signal(signal.SIGSTOP)  # so that it finds all three at once
    await agent.run(first, STEPS.format(steps=3, pause=0))
    await agent.bus.say_raw(COMMAND.name, b"poison", poison, key=worker.worker_id.encode())
    await agent.run(second, STEPS.format(steps=3, pause=0))
    agent.process.send_signal(signal.SIGCONT)
    await assert_whole(agent, first, 3)
    await assert_whole(agent, second, 3)

    def letters() -> list[DeadLettered]:
        told = agent.bus.tape.of(DeadLettered)
        return [
            one for one in told if one.letter.consumer == "trainer_worker" and one.letter.topic == COMMAND.name
        ]

    await eventually(letters, within=10, what="the dead letter")
    assert {one.letter.value_b64 for one in letters()} == {"cG9pc29u"}


async def test_a_bundle_that_cannot_be_packed_is_the_machines_fault_and_is_said(agent: Agent) -> None:
    """The run lets a folder lie where its history is to be written."""
    await agent.start()
    task = new_task()
    await agent.run(task, "import trainwright\n(trainwright.init().output / 'history.json').mkdir()\n")
    ended = (await agent.until_ended(task)).attempt
    assert (ended.outcome, ended.bundle) == (Outcome.FAILED, None)
    assert ended.failure is not None
    assert ended.failure.failure_class is FailureClass.ENVIRONMENT_ERROR
    assert ended.failure.message.startswith("what the run left cannot be kept: ")
    assert "history.json" in ended.failure.message


class Alone:
    """An agent without anybody: no broker listens where it looks for one."""

    def __init__(self, folder: Path) -> None:
        self.home, self.log = folder / "worker", folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, **env: str) -> None:
        own = {name: value for name, value in os.environ.items() if not name.startswith("TRAINWRIGHT_")}
        own |= {"TRAINWRIGHT_KAFKA": "127.0.0.1:1", "TRAINWRIGHT_WORKER_HOME": str(self.home)}
        own |= {"TRAINWRIGHT_BLOBS": f"dir:{self.home.parent / 'blobs'}"}
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "services.trainer_worker"]
            self.process = subprocess.Popen(command, env={**own, **env}, stdout=log, stderr=log)

    def exit_code(self) -> int:
        assert self.process is not None
        return self.process.wait(60)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Alone]:
    made = Alone(tmp_path)
    yield made
    if made.process is not None:
        end(made.process)


def test_a_store_that_is_none_is_said_in_one_line(alone: Alone) -> None:
    alone.home.mkdir()
    (alone.home / "worker.db").write_text("no database at all, but a text that somebody has put there")
    alone.start()
    assert alone.exit_code() == 1
    (line,) = alone.log.read_text().splitlines()
    assert line.startswith(f"trainwright worker: cannot open the store {alone.home / 'worker.db'}: ")
    assert "file is not a database" in line


def test_a_home_that_cannot_be_made_is_said_in_one_line(alone: Alone) -> None:
    alone.home.parent.mkdir(exist_ok=True)
    alone.home.write_text("in the way")
    alone.start()
    assert alone.exit_code() == 1
    said = f"trainwright worker: the worker's home {alone.home} cannot be used: File exists\n"
    assert alone.log.read_text() == said


async def test_without_kafka_it_leaves_at_once_and_keeps_what_it_wanted_to_say(alone: Alone) -> None:
    alone.start()
    await eventually((alone.home / "worker.json").exists, within=30, what=f"an agent; see {alone.log}")
    assert alone.process is not None
    alone.process.send_signal(signal.SIGHUP)
    assert await asyncio.to_thread(alone.exit_code) == 0
    assert "left before Kafka had heard that the agent comes back" in alone.log.read_text()
    store = sqlite3.connect(alone.home / "worker.db")
    rows = store.execute("SELECT headers, value FROM outbox WHERE sent_at IS NULL ORDER BY seq").fetchall()
    store.close()
    kinds = [dict(json.loads(headers))["ce_type"].split(".")[2] for headers, _ in rows]
    assert kinds == ["WorkerRegistered", "WorkerDraining"]
    assert json.loads(rows[-1][1])["worker"]["returns_within"] == 30
    identity = layout.read_json(alone.home / "worker.json")
    assert identity is not None
    assert json.loads(rows[-1][1])["worker"]["worker_id"] == identity["worker_id"]


async def test_a_port_that_is_taken_is_tried_again_while_the_worker_works(alone: Alone) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        alone.start(TRAINWRIGHT_WORKER_PORT=str(port))
        taken = "a loop of the worker failed; it is started again"
        await eventually(lambda: alone.log.exists() and taken in alone.log.read_text(), within=30, what=taken)
        assert "Address already in use" in alone.log.read_text()
    await asyncio.to_thread(reachable, "127.0.0.1", port, 30)
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/health/live")).status_code == 200
