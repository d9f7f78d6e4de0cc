"""Tasks and facts about them, for the tests of the task service's pure parts."""

from datetime import UTC, datetime, timedelta

from services.task import domain
from trainwright.contracts.attempt import AttemptDocument, Outcome
from trainwright.contracts.checkpoint import Checkpoint
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.queue import Placement, PlacementState
from trainwright.contracts.task import TaskDocument
from trainwright.contracts.task_config import TaskConfig

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)


def a_task(**config: object) -> TaskDocument:
    return domain.created("task-1", TaskConfig.model_validate({"recipe": "script", **config}), NOW).task


def a_waiting_task(**config: object) -> TaskDocument:
    return changed(domain.start(a_task(**config), NOW))


def a_running_task(attempt: int = 1, **config: object) -> TaskDocument:
    waiting = a_waiting_task(**config)
    return changed(domain.started(changed(domain.placed(waiting, at(attempt), NOW)), attempt, "worker-1", NOW))


def again(task: TaskDocument) -> TaskDocument:
    """Return a waiting task with its next attempt at work."""
    number = task.attempt + 1
    return changed(domain.started(changed(domain.placed(task, at(number), NOW)), number, "worker-1", NOW))


def changed(change: domain.Change | None) -> TaskDocument:
    assert change is not None
    return change.task


def at(attempt: int, reason: str = "") -> Placement:
    return Placement(
        task_id="task-1",
        version=attempt,
        state=PlacementState.ASSIGNED,
        attempt=attempt,
        worker_id="worker-1",
        incarnation="one",
        reason=reason,
        updated_at=NOW,
    )


def saved(attempt: int, *steps: int, resume_step: int = 0) -> AttemptDocument:
    """Return the document of a running attempt with checkpoints at these steps."""
    checkpoints = [
        Checkpoint(step=step, attempt=attempt, manifest=f"{step:064x}", saved_at=NOW)
        for step in sorted(steps, reverse=True)
    ]
    return AttemptDocument(
        task_id="task-1",
        attempt=attempt,
        version=2,
        worker_id="worker-1",
        incarnation="one",
        started_at=NOW,
        resume_step=resume_step,
        checkpoints=checkpoints,
    )


def end(
    attempt: int,
    outcome: Outcome,
    failure_class: FailureClass | None = None,
    *steps: int,
    resume_step: int = 0,
    bad_step: int | None = None,
) -> AttemptDocument:
    """Return the document of an attempt that ended, with checkpoints at these steps."""
    failure = Failure(failure_class=failure_class, message="broke", bad_step=bad_step) if failure_class else None
    running = saved(attempt, *steps, resume_step=resume_step)
    return running.model_copy(update={"version": 99, "outcome": outcome, "failure": failure, "ended_at": LATER})


def failed(
    task: TaskDocument,
    failure_class: FailureClass,
    *steps: int,
    bad_step: int | None = None,
    resume_step: int = 0,
) -> TaskDocument:
    """Return what becomes of a task whose attempt fails."""
    document = end(task.attempt, Outcome.FAILED, failure_class, *steps, bad_step=bad_step, resume_step=resume_step)
    return changed(domain.ended(task, document, LATER))
