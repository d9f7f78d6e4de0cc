"""A task's state machine: pure functions from a document and a fact to the next document. No I/O, no clock.

Each function returns a ``Change``, or None when the fact changes nothing (a repeat, a fenced attempt, too late).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from trainwright.contracts.attempt import INFRASTRUCTURE, AttemptDocument, Failure, FailureClass, Outcome
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.queue import Placement
from trainwright.contracts.task import (
    FINAL,
    StopKind,
    TaskConfig,
    TaskCreated,
    TaskDocument,
    TaskEvent,
    TaskPhase,
    TaskReady,
    TaskRetryScheduled,
    TaskStatus,
    TaskStatusChanged,
    TaskStopRequested,
)

LOSS_CAP = 20
"""Restarts after losses of infrastructure before a task is given up."""

RETRY_DELAY = timedelta(seconds=10)

TRANSITIONS: dict[TaskStatus, frozenset[TaskStatus]] = {
    TaskStatus.PENDING: frozenset(
        {TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.PAUSED, TaskStatus.FAILED, TaskStatus.CANCELLED}
        | {TaskStatus.COMPLETED}  # a run whose start was reported after its end
    ),
    TaskStatus.RUNNING: frozenset(
        {TaskStatus.RUNNING, TaskStatus.PENDING, TaskStatus.PAUSED, TaskStatus.COMPLETED}
        | {TaskStatus.FAILED, TaskStatus.CANCELLED}
    ),
    TaskStatus.PAUSED: frozenset({TaskStatus.PENDING, TaskStatus.CANCELLED}),
    TaskStatus.COMPLETED: frozenset(),
    TaskStatus.FAILED: frozenset(),
    TaskStatus.CANCELLED: frozenset(),
}

LIVE = frozenset({TaskPhase.STARTING, TaskPhase.TRAINING, TaskPhase.FINISHING, TaskPhase.STOPPING})
"""Phases in which an attempt may be at work."""

CHARGED = frozenset(FailureClass) - INFRASTRUCTURE - {FailureClass.USER_ERROR}
"""Failures that a retry may mend; it is charged to ``max_retries``."""


@dataclass(frozen=True, slots=True)
class Change:
    """A task's next document, the event that says so, and why."""

    task: TaskDocument
    event: type[TaskEvent]
    cause: str


def created(task_id: str, config: TaskConfig, now: datetime) -> Change:
    """Return a new task that nobody has asked to run."""
    task = TaskDocument(
        task_id=task_id,
        version=1,
        name=config.name or config.recipe,
        config=config,
        status=TaskStatus.PENDING,
        phase=TaskPhase.NOT_STARTED,
        reason="not asked to run yet",
        created_at=now,
        updated_at=now,
    )
    return Change(task, TaskCreated, "created")


def start(task: TaskDocument, now: datetime) -> Change | None:
    """Ask a task to run.

    Raises:
        IllegalTransition: It runs, or is over.
    """
    if task.status is not TaskStatus.PENDING or task.phase in LIVE:
        raise IllegalTransition(f"task {task.task_id} is {task.status}; only a pending one can be started")
    if task.phase is not TaskPhase.NOT_STARTED:
        return None
    waiting = _move(task, now, phase=TaskPhase.WAITING_SLOTS, reason="waiting for the scheduler")
    return Change(waiting, TaskReady, "asked to run")


def cancel(task: TaskDocument, now: datetime) -> Change | None:
    """Ask a task to end for good: at once without an attempt, else by way of its worker.

    Raises:
        IllegalTransition: It is over.
    """
    if task.status in FINAL:
        raise IllegalTransition(f"task {task.task_id} is {task.status} already and cannot be cancelled")
    if task.phase not in LIVE:
        return Change(_end(task, now, TaskStatus.CANCELLED, "cancelled"), TaskStatusChanged, "cancelled")
    if task.stop is StopKind.CANCEL:
        return None
    stopping = _move(
        task, now, phase=TaskPhase.STOPPING, stop=StopKind.CANCEL, reason="asked to stop; waiting for its worker"
    )
    return Change(stopping, TaskStopRequested, "cancel requested")


def queued(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Note why a task waits."""
    if task.phase is not TaskPhase.WAITING_SLOTS or placement.reason == task.reason:
        return None
    return Change(_move(task, now, reason=placement.reason), TaskStatusChanged, "waits")


def placed(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Note that a task got a place and a new attempt."""
    if task.status in FINAL or placement.attempt <= task.attempt:
        return None
    moved = _move(
        task,
        now,
        phase=TaskPhase.STARTING,
        attempt=placement.attempt,
        worker_id=placement.worker_id,
        not_before=None,
        reason=f"starting on {placement.worker_id}",
    )
    return Change(moved, TaskStatusChanged, "placed")


def started(task: TaskDocument, attempt: int, worker_id: str, now: datetime) -> Change | None:
    """Note that an attempt's process runs."""
    if _is_fenced(task, attempt) or (attempt == task.attempt and task.status is TaskStatus.RUNNING):
        return None
    stopping = task.stop is not None
    moved = _move(
        task,
        now,
        status=TaskStatus.RUNNING,
        phase=TaskPhase.STOPPING if stopping else TaskPhase.TRAINING,
        attempt=attempt,
        worker_id=worker_id,
        started_at=task.started_at or now,
        reason=task.reason if stopping else "",
    )
    return Change(moved, TaskStatusChanged, "started")


def ended(task: TaskDocument, attempt: AttemptDocument, now: datetime) -> Change | None:
    """Decide what follows the end of an attempt."""
    if _is_fenced(task, attempt.attempt):
        return None
    task = task.model_copy(update={"attempt": attempt.attempt, "worker_id": attempt.worker_id})
    if attempt.outcome is Outcome.COMPLETED:
        return Change(_end(task, now, TaskStatus.COMPLETED, ""), TaskStatusChanged, "completed")
    if task.stop is StopKind.CANCEL or attempt.outcome is Outcome.CANCELLED:
        return Change(_end(task, now, TaskStatus.CANCELLED, "cancelled"), TaskStatusChanged, "cancelled")
    if attempt.outcome is Outcome.INTERRUPTED:
        return _lose(task, "the worker stopped", now)
    failure = attempt.failure or Failure(failure_class=FailureClass.UNKNOWN, message="no reason was given")
    if failure.failure_class in INFRASTRUCTURE:
        return _lose(task, failure.message, now)
    return _fail(task, failure, now)


def lost(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Decide what follows the loss of an attempt's worker."""
    if _is_fenced(task, placement.attempt):
        return None
    task = task.model_copy(update={"attempt": placement.attempt, "worker_id": placement.worker_id})
    if task.stop is StopKind.CANCEL:
        return Change(_end(task, now, TaskStatus.CANCELLED, "cancelled"), TaskStatusChanged, "cancelled")
    return _lose(task, placement.reason, now)


def _is_fenced(task: TaskDocument, attempt: int) -> bool:
    """Return whether an attempt has no say any more: the task is over, has a later one, or gave it up."""
    gave_up = attempt == task.attempt and task.phase not in LIVE
    return task.status in FINAL or attempt < task.attempt or gave_up


def _lose(task: TaskDocument, why: str, now: datetime) -> Change:
    if task.losses >= LOSS_CAP:
        failure = Failure(
            failure_class=FailureClass.WORKER_LOST,
            message=f"lost {task.losses + 1} times: {why}",
            hint="Look at the workers: this task loses one after the other.",
        )
        return Change(_end(task, now, TaskStatus.FAILED, failure.message, failure=failure), TaskStatusChanged, why)
    waiting = _move(
        task,
        now,
        status=TaskStatus.PENDING,
        phase=TaskPhase.WAITING_SLOTS,
        losses=task.losses + 1,
        worker_id=None,
        stop=None,
        reason=f"attempt {task.attempt} was lost ({why}); waiting for a place",
    )
    return Change(waiting, TaskRetryScheduled, why)


def _fail(task: TaskDocument, failure: Failure, now: datetime) -> Change:
    if failure.failure_class not in CHARGED or task.retries_used >= task.config.max_retries:
        failed = _end(task, now, TaskStatus.FAILED, failure.message, failure=failure)
        return Change(failed, TaskStatusChanged, str(failure.failure_class))
    waiting = _move(
        task,
        now,
        status=TaskStatus.PENDING,
        phase=TaskPhase.BACKING_OFF,
        retries_used=task.retries_used + 1,
        not_before=now + RETRY_DELAY,
        worker_id=None,
        failure=failure,
        reason=f"attempt {task.attempt} failed ({failure.failure_class}); next one in {RETRY_DELAY.seconds} s",
    )
    return Change(waiting, TaskRetryScheduled, str(failure.failure_class))


def _end(task: TaskDocument, now: datetime, status: TaskStatus, reason: str, **fields: Any) -> TaskDocument:
    fields = {"failure": None, "stop": None, **fields} if status is TaskStatus.COMPLETED else fields
    return _move(
        task, now, status=status, phase=TaskPhase.ENDED, reason=reason, ended_at=now, not_before=None, **fields
    )


def _move(task: TaskDocument, now: datetime, **fields: Any) -> TaskDocument:
    status = fields.get("status", task.status)
    if status not in TRANSITIONS[task.status]:
        raise IllegalTransition(f"task {task.task_id} cannot go from {task.status} to {status}")
    return task.model_copy(update={**fields, "version": task.version + 1, "updated_at": now})
