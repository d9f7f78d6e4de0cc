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
    run_parameters,
    with_answers,
)
from services.trainer_worker.handlers import CommandHandlers
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.command import RunAttempt, StopAttempt
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.parameters import ChangedValue, ParameterAnswer
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import Repair, StopKind
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime.clock import SystemClock
from trainwright.storage.sqlite import SqliteStore

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
REPAIR = Repair(
    attempt=1,
    failure_class=FailureClass.OUT_OF_MEMORY,
    action="halve the micro-batch",
    changes={"batch": ChangedValue(old=8, new=4)},
    at=NOW,
)


@pytest.mark.parametrize(
    ("earlier", "later", "kind", "grace"),
    [
        (StopCause.PAUSE, StopCause.CANCEL, StopCause.CANCEL, 3),
        (StopCause.CANCEL, StopCause.PAUSE, StopCause.CANCEL, 3),
        (StopCause.PAUSE, StopCause.PREEMPT, StopCause.PAUSE, 3),
        (StopCause.PREEMPT, StopCause.PAUSE, StopCause.PAUSE, 3),
        (StopCause.PAUSE, StopCause.WORKER_STOPS, StopCause.PAUSE, 3),
        (StopCause.HUNG, StopCause.PAUSE, StopCause.HUNG, 3),
        (StopCause.HUNG, StopCause.CANCEL, StopCause.CANCEL, 3),
        (StopCause.CANCEL, StopCause.FENCED, StopCause.FENCED, 3),
    ],
)
def test_of_two_requests_the_weightier_holds_and_no_time_is_won(
    earlier: StopCause, later: StopCause, kind: StopCause, grace: float
) -> None:
    first, second = Stop(kind=earlier, grace_seconds=grace), Stop(kind=later, revision=2, grace_seconds=60)
    assert (first.then(second).kind, first.then(second).grace_seconds) == (kind, grace)
    assert first.then(second).then(second) == first.then(second)


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
    await desk.say(stop_attempt(revision=2, grace_seconds=5, reason="first"))
    await desk.say(stop_attempt(revision=1, grace_seconds=99, reason="stale"))
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.stop is not None
    assert (attempt.stop.grace_seconds, attempt.stop.reason) == (5, "first")
    await desk.say(stop_attempt(revision=3, grace_seconds=1, reason="hurry"))
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.stop is not None
    assert (attempt.stop.grace_seconds, attempt.stop.reason) == (1, "hurry")


async def test_a_cancel_reaches_what_has_ended_but_was_not_reported(desk: Desk) -> None:
    await desk.say(run_attempt())
    await desk.say(stop_attempt(kind=StopKind.PAUSE, revision=2))
    await desk.set("task-1.1", AttemptState.ENDED)
    await desk.say(stop_attempt(kind=StopKind.CANCEL, revision=3))
    attempt = await desk.attempt("task-1.1")
    assert attempt is not None
    assert attempt.stop is not None
    assert attempt.stop.kind is StopCause.CANCEL


async def test_what_repairs_changed_is_kept_with_the_attempt(desk: Desk) -> None:
    found = {"step": 7, "attempt": 1, "manifest": "0" * 64, "saved_at": NOW}
    await desk.say(
        run_attempt(number=2, overrides={"batch": 4}, resume_from=[found], timeout_seconds=60, repairs=[REPAIR])
    )
    attempt = await desk.attempt("task-1.2")
    assert attempt is not None
    assert attempt.parameters == {"path": "x.py", "batch": 4}
    assert (attempt.resume_from[0].step, attempt.timeout_seconds) == (7, 60)
    assert attempt.repairs == [REPAIR]


@pytest.mark.parametrize("state", [AttemptState.REPORTED, AttemptState.LOST])
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


def test_the_public_document_says_where_the_attempt_stands() -> None:
    saved = Checkpoint(step=5, attempt=4, manifest="0" * 64, saved_at=NOW)
    attempt = Attempt(
        task_id="task-1", attempt=4, incarnation="now", name="x", config=TaskConfig(recipe="script"),
        slots=Slots(), received_at=NOW, started_at=NOW, version=2, resume_step=3, checkpoints=[saved],
    )  # fmt: skip
    read = Read(step=9, total_steps=10, latest={"loss": 0.5})
    begun = document(attempt, "worker-1", "now", read)
    assert (begun.version, begun.final_step, begun.total_steps) == (2, None, 10)
    assert (begun.resume_step, begun.checkpoints) == (3, [saved])
    over = document(attempt.model_copy(update={"outcome": Outcome.COMPLETED}), "worker-1", "now", read)
    assert (over.final_step, over.latest_metrics) == (9, {"loss": 0.5})


def test_what_a_run_wrote_about_its_parameters_counts_once_and_only_as_far_as_it_is_an_answer() -> None:
    """The file is the run's own: a script may write into it what it likes."""
    known = [ParameterAnswer(revision=1, step=5)]
    junk = ["three", {"revision": "x"}, {"revision": 0}, None]
    late, again = {"revision": 3, "step": 9}, {"revision": 3, "step": 10}
    found = [late, *junk, {"revision": 1, "step": 7}, {"revision": 2, "error": "no"}, again]
    assert with_answers(known, found) == [
        *known, ParameterAnswer(revision=2, error="no"), ParameterAnswer(revision=3, step=9)
    ]  # fmt: skip
    for nothing in (None, "text", {"revision": 2}, 7):
        assert with_answers(known, nothing) == known
