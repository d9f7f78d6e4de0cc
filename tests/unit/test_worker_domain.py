"""What an ending means, and what a command changes, on a real store."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from services.trainer_worker import store
from services.trainer_worker.domain import (
    Attempt,
    AttemptState,
    Read,
    Stop,
    StopCause,
    command_line,
    document,
    judge,
    run_parameters,
)
from services.trainer_worker.handlers import CommandHandlers
from trainwright.contracts.attempt import FailureClass, Outcome
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import StopKind, TaskConfig
from trainwright.runtime.clock import SystemClock
from trainwright.storage.sqlite import SqliteStore
from trainwright.training.classify import Ending

CANCEL = Stop(kind=StopCause.CANCEL)
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("ending", "stop", "asked", "seen", "outcome"),
    [
        (Ending(exit_code=0), None, False, False, Outcome.COMPLETED),
        (Ending(exit_code=1), None, False, False, Outcome.FAILED),
        (Ending(exit_code=0), CANCEL, True, True, Outcome.CANCELLED),
        (Ending(exit_code=0), CANCEL, True, False, Outcome.COMPLETED),  # it had finished before it noticed
        (Ending(exit_code=143), CANCEL, True, False, Outcome.CANCELLED),
        (Ending(signal="SIGKILL"), CANCEL, True, False, Outcome.CANCELLED),
        (Ending(exit_code=1), CANCEL, False, False, Outcome.FAILED),  # it failed before it was asked
        (Ending(exit_code=0), Stop(kind=StopCause.PREEMPT), True, True, Outcome.INTERRUPTED),
        (Ending(exit_code=0), Stop(kind=StopCause.WORKER_STOPS), True, True, Outcome.INTERRUPTED),
        (Ending(signal="SIGTERM", reason="no_agent"), None, False, False, Outcome.INTERRUPTED),
        (Ending(signal="SIGTERM", reason="no_agent"), CANCEL, True, False, Outcome.INTERRUPTED),
        (Ending(signal="SIGTERM", reason="shim_told_to_end"), None, False, False, Outcome.INTERRUPTED),
    ],
)
def test_an_ending_and_a_request_to_stop_in_every_order(
    ending: Ending, stop: Stop | None, asked: bool, seen: bool, outcome: Outcome
) -> None:
    assert judge(ending, stop, asked=asked, stop_seen=seen).outcome is outcome


def test_preemption_and_loss_are_told_apart() -> None:
    preempted = judge(Ending(exit_code=0), Stop(kind=StopCause.PREEMPT), asked=True, stop_seen=True).failure
    lost = judge(Ending(signal="SIGTERM", reason="no_agent"), None, asked=False, stop_seen=False).failure
    assert preempted is not None
    assert lost is not None
    assert preempted.failure_class is FailureClass.PREEMPTED
    assert lost.failure_class is FailureClass.WORKER_LOST


def test_what_is_started_follows_from_the_recipe() -> None:
    script = {"path": "train.py", "args": ["--epochs", 3], "rate": 0.1}
    assert command_line("script", script, "python") == ["python", "-u", "train.py", "--epochs", "3"]
    assert run_parameters("script", script) == {"rate": 0.1}
    assert command_line("forecast", {}, "python")[-1] == "trainwright.training.launch"
    assert run_parameters("forecast", {"path": "x"}) == {"path": "x"}
    with pytest.raises(ValueError, match=r"parameters\.path"):
        command_line("script", {}, "python")
    with pytest.raises(ValueError, match="must be a list"):
        command_line("script", {"path": "x", "args": "--fast"}, "python")


def test_time_left_follows_the_runs_own_pace() -> None:
    read = Read(step=30, total_steps=100, first_step=10, first_time=100.0, last_time=110.0)
    assert read.eta_seconds() == 35.0
    assert Read(step=30, total_steps=None, first_time=1.0, last_time=2.0).eta_seconds() is None
    assert Read(step=5, total_steps=9, first_step=5, first_time=1.0, last_time=2.0).eta_seconds() is None


def run_attempt(task: str = "task-1", number: int = 1, **fields: object) -> RunAttempt:
    base = {"worker_id": "worker-1", "incarnation": "now", "task_id": task, "attempt": number, "name": "x"}
    config = TaskConfig(recipe="script", parameters={"path": "x.py"})
    return RunAttempt.model_validate({**base, "config": config, "slots": Slots(), **fields})


def stop_attempt(task: str = "task-1", number: int = 1, **fields: object) -> StopAttempt:
    base = {"worker_id": "worker-1", "incarnation": "now", "task_id": task, "attempt": number}
    return StopAttempt.model_validate({**base, "kind": StopKind.CANCEL, "grace_seconds": 3, **fields})


class Desk:
    """A worker's handlers and store, driven command by command."""

    def __init__(self, documents: SqliteStore) -> None:
        self.documents = documents
        self._handlers = CommandHandlers("now")

    async def say(self, command: RunAttempt | StopAttempt) -> None:
        async with self.documents.transaction() as tx:
            if isinstance(command, RunAttempt):
                assert await self._handlers.on_run_attempt(command, tx=tx, clock=SystemClock()) == []
            else:
                assert await self._handlers.on_stop_attempt(command, tx=tx, clock=SystemClock()) == []

    async def attempt(self, key: str) -> Attempt | None:
        return await store.attempt_of(self.documents, key)

    async def set(self, key: str, state: AttemptState) -> None:
        attempt = await self.attempt(key)
        assert attempt is not None
        async with self.documents.transaction() as tx:
            await store.put_attempt(tx, attempt.model_copy(update={"state": state}))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    documents = SqliteStore(tmp_path / "worker.db", store.COLLECTIONS)
    await documents.open()
    yield Desk(documents)
    await documents.close()


async def test_a_command_is_kept_once(desk: Desk) -> None:
    await desk.say(run_attempt())
    await desk.set("task-1.1", AttemptState.RUNNING)
    await desk.say(run_attempt())
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.state is AttemptState.RUNNING


async def test_commands_for_another_incarnation_or_too_late_are_refused(desk: Desk) -> None:
    await desk.say(run_attempt(incarnation="before"))
    await desk.say(run_attempt(not_after=SystemClock().now() - timedelta(seconds=1)))
    assert await desk.attempt("task-1.1") is None


async def test_a_newer_attempt_fences_the_older_and_never_the_other_way_round(desk: Desk) -> None:
    await desk.say(run_attempt(number=2))
    await desk.say(run_attempt(number=1))
    assert await desk.attempt("task-1.1") is None
    await desk.say(run_attempt(number=3))
    older, newer = await desk.attempt("task-1.2"), await desk.attempt("task-1.3")
    assert older is not None
    assert older.stop is not None
    assert older.stop.kind is StopCause.FENCED
    assert newer is not None
    assert newer.stop is None


async def test_a_stop_reaches_a_run_of_an_earlier_incarnation(desk: Desk) -> None:
    await desk.say(run_attempt())
    await desk.say(stop_attempt(incarnation="before"))
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.stop == Stop(kind=StopCause.CANCEL, grace_seconds=3)


async def test_a_later_revision_changes_a_stop_and_an_earlier_one_does_not(desk: Desk) -> None:
    await desk.say(run_attempt())
    await desk.say(stop_attempt(revision=2, grace_seconds=1))
    await desk.say(stop_attempt(revision=1, grace_seconds=99))
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.stop is not None
    assert attempt.stop.grace_seconds == 1


@pytest.mark.parametrize("state", [AttemptState.ENDED, AttemptState.REPORTED, AttemptState.LOST])
async def test_a_stop_of_what_is_over_changes_nothing(desk: Desk, state: AttemptState) -> None:
    await desk.say(stop_attempt())
    assert await desk.attempt("task-1.1") is None
    await desk.say(run_attempt())
    await desk.set("task-1.1", state)
    await desk.say(stop_attempt())
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.stop is None


async def test_values_that_are_not_finite_survive_the_store(desk: Desk) -> None:
    read = Read(latest={"nan": float("nan"), "top": float("inf")}, points=3)
    async with desk.documents.transaction() as tx:
        await store.put_read(tx, "task-1.1", read)
    assert str((await store.read_of(desk.documents, "task-1.1")).latest) == "{'nan': nan, 'top': inf}"


def test_the_public_document_is_version_one_at_the_start_and_two_at_the_end() -> None:
    attempt = Attempt(
        task_id="task-1", attempt=4, incarnation="now", name="x", config=TaskConfig(recipe="script"),
        slots=Slots(), received_at=NOW, started_at=NOW,
    )  # fmt: skip
    read = Read(step=9, total_steps=10, latest={"loss": 0.5})
    begun = document(attempt, "worker-1", "now", read)
    assert (begun.version, begun.final_step, begun.total_steps) == (1, None, 10)
    over = document(attempt.model_copy(update={"outcome": Outcome.COMPLETED}), "worker-1", "now", read)
    assert (over.version, over.final_step, over.latest_metrics) == (2, 9, {"loss": 0.5})
