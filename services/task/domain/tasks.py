"""A task's state machine: pure functions from a document and a fact to the next document. No I/O, no clock.

Each function returns a ``Change``, or None when the fact changes nothing (a repeat, a fenced attempt, too late).
Not here: what is done about a failure (``repair.py``).
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from services.task import repair
from services.task.checkpoints import folded, going_on, newest_step
from services.task.domain.changes import Change, move
from services.task.domain.dependencies import waits_for
from services.task.domain.parameters import answered, closed, told
from trainwright.contracts.attempt import AttemptDocument, Outcome
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.failure import INFRASTRUCTURE, Failure, FailureClass
from trainwright.contracts.queue import Placement, WaitClass
from trainwright.contracts.task import (
    FINAL,
    StopKind,
    TaskCreated,
    TaskDocument,
    TaskPhase,
    TaskReady,
    TaskRetryScheduled,
    TaskStatus,
    TaskStatusChanged,
    TaskStopRequested,
)
from trainwright.contracts.task_config import TaskConfig

LIVE = frozenset(
    {TaskPhase.STARTING, TaskPhase.TRAINING, TaskPhase.CHECKPOINTING, TaskPhase.FINISHING, TaskPhase.STOPPING}
)
"""Phases in which an attempt may be at work."""
WAITING = frozenset({TaskPhase.WAITING_SLOTS, TaskPhase.WAITING_QUOTA})
"""Phases in which the task is with the scheduler."""


def created(task_id: str, config: TaskConfig, now: datetime, **origin: Any) -> Change:
    """Return a new task that nobody has asked to run; ``origin`` says what it comes from and depends on."""
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
        **origin,
    )
    return Change(task, TaskCreated, "created")


def start(task: TaskDocument, now: datetime, *, unmet: Sequence[str] = ()) -> Change | None:
    """Ask a task to run; ``unmet`` are the tasks that it has to wait for.

    Raises:
        IllegalTransition: It runs, is paused, or is over.
    """
    if task.status is not TaskStatus.PENDING or task.stop is not None:
        raise _illegal(task, "started")
    if task.phase is not TaskPhase.NOT_STARTED:
        return None
    return _wanted(task, now, unmet, "asked to run")


def pause(task: TaskDocument, now: datetime, *, asks_stop: bool | None = None) -> Change | None:
    """Ask a task to rest: at once without an attempt, else by way of its worker.

    Args:
        task: The task.
        now: The time.
        asks_stop: Whether its run has asked so far if it should stop; None when that is not known.

    Raises:
        IllegalTransition: It is over, or is being cancelled.
    """
    if task.status in FINAL or task.stop is StopKind.CANCEL:
        raise _illegal(task, "paused")
    if task.status is TaskStatus.PAUSED or task.stop is StopKind.PAUSE:
        return None
    if task.phase not in LIVE:
        return _hold(task, now, "paused")
    reason = "asked to pause; waiting for its worker"
    if asks_stop is False:
        reason = (
            "asked to pause, but the run has not asked so far whether it should stop (run.should_stop()): unless"
            f" it does, it is ended at the deadline; then resume {going_on(newest_step(task.checkpoints))}"
        )
    stopping = move(task, now, phase=TaskPhase.STOPPING, stop=StopKind.PAUSE, reason=reason)
    return Change(stopping, TaskStopRequested, "pause requested")


def resume(task: TaskDocument, now: datetime, *, unmet: Sequence[str] = ()) -> Change | None:
    """Ask a paused task to go on, or take a pause back that is still under way.

    A task that has used up its time gets the same time again.

    Raises:
        IllegalTransition: It is over, is being cancelled, or has never been paused.
    """
    if task.status is TaskStatus.PAUSED and not _at_work(task):
        return _wanted(task, now, unmet, "resumed", resumed_at=now, **repair.time_again(task))
    if task.stop is StopKind.PAUSE or task.status is TaskStatus.PAUSED:
        running = task.status is TaskStatus.RUNNING
        going_on = move(
            task,
            now,
            status=TaskStatus.RUNNING if running else TaskStatus.PENDING,
            phase=TaskPhase.TRAINING if running else TaskPhase.STARTING,
            stop=None,
            resumed_at=now,
            reason="the pause was taken back; a run that has stopped for it already is started again",
        )
        return Change(going_on, TaskStatusChanged, "pause taken back")
    if task.status in FINAL or task.stop is not None or task.resumed_at is None:
        raise _illegal(task, "resumed")
    return None


def cancel(task: TaskDocument, now: datetime) -> Change | None:
    """Ask a task to end for good: at once without an attempt, else by way of its worker.

    Raises:
        IllegalTransition: It is completed or failed.
    """
    if task.status is TaskStatus.CANCELLED or task.stop is StopKind.CANCEL:
        return None
    if task.status in FINAL:
        raise _illegal(task, "cancelled")
    if task.phase not in LIVE:
        return _cancelled(task, now)
    stopping = move(
        task, now, phase=TaskPhase.STOPPING, stop=StopKind.CANCEL, reason="asked to stop; waiting for its worker"
    )
    return Change(stopping, TaskStopRequested, "cancel requested")


def queued(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Note why a task waits."""
    phase = TaskPhase.WAITING_QUOTA if placement.waits_for is WaitClass.QUOTA else TaskPhase.WAITING_SLOTS
    if task.phase not in WAITING or (phase, placement.reason) == (task.phase, task.reason):
        return None
    return Change(move(task, now, phase=phase, reason=placement.reason), TaskStatusChanged, "waits")


def placed(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Note that a task got a place and a new attempt."""
    if task.status in FINAL or placement.attempt < task.attempt:
        return None
    if placement.attempt == task.attempt:
        return _explained(task, placement, now)
    if task.status is TaskStatus.PAUSED:
        return _straggler(task, placement.attempt, placement.worker_id, now)
    stopping = task.stop is not None
    others = f" and {len(placement.members) - 1} more" if placement.members else ""
    starting = f"starting on {placement.worker_id}{others}"
    moved = move(
        task,
        now,
        status=TaskStatus.PENDING,
        phase=TaskPhase.STOPPING if stopping else TaskPhase.STARTING,
        attempt=placement.attempt,
        worker_id=placement.worker_id,
        members=placement.members,
        not_before=None,
        reason=task.reason if stopping else f"{starting}: {placement.reason}" if placement.reason else starting,
    )
    return Change(moved, TaskStatusChanged, "placed")


def started(task: TaskDocument, attempt: int, worker_id: str, now: datetime) -> Change | None:
    """Note that an attempt's process runs."""
    if is_fenced(task, attempt):
        return None
    if attempt == task.attempt and task.status is not TaskStatus.PENDING:
        return None
    if task.status is TaskStatus.PAUSED:
        return _straggler(task, attempt, worker_id, now)
    stopping = task.stop is not None
    moved = move(
        task,
        now,
        status=TaskStatus.RUNNING,
        phase=TaskPhase.STOPPING if stopping else TaskPhase.TRAINING,
        attempt=attempt,
        worker_id=worker_id,
        started_at=task.started_at or now,
        not_before=None,
        reason=task.reason if stopping else "",
    )
    return Change(moved, TaskStatusChanged, "started")


def reported(task: TaskDocument, attempt: AttemptDocument, now: datetime) -> Change | None:
    """Note what a running attempt's document says: that it has started, which checkpoints it has, what it did
    about changed parameters.
    """
    if is_fenced(task, attempt.attempt):
        return None
    news: dict[str, Any] = {"checkpoints": folded(task.checkpoints, attempt)}
    news |= answered(task, attempt.attempt, attempt.parameters)
    said = told(task.parameter_changes, news.get("parameter_changes", task.parameter_changes))
    change = started(task, attempt.attempt, attempt.worker_id, now)
    if change is not None:
        cause = f"{change.cause}; {said}" if said else change.cause
        return Change(change.task.model_copy(update=news), change.event, cause)
    if not said and news["checkpoints"] == task.checkpoints:
        return None
    return Change(move(task, now, **news), TaskStatusChanged, said)


def ended(task: TaskDocument, attempt: AttemptDocument, now: datetime) -> Change | None:
    """Decide what follows the end of an attempt."""
    if is_fenced(task, attempt.attempt):
        return None
    task = task.model_copy(
        update={
            "attempt": attempt.attempt,
            "worker_id": attempt.worker_id,
            "not_before": None,
            "checkpoints": folded(task.checkpoints, attempt),
            "ran_seconds": task.ran_seconds + _seconds(attempt),
            **answered(task, attempt.attempt, attempt.parameters),
        }
    )
    if attempt.outcome is Outcome.COMPLETED:
        return Change(_end(task, now, TaskStatus.COMPLETED, ""), TaskStatusChanged, "completed")
    if task.stop is StopKind.CANCEL or attempt.outcome is Outcome.CANCELLED:
        return _cancelled(task, now)
    if attempt.outcome is Outcome.PAUSED:
        if _is_pausing(task):
            return _hold(task, now, "paused")
        if attempt.given_back is not None:
            return _hold(task, now, f"paused: {attempt.given_back}", cause="idle")
        return _go_on(task, now)
    failure = attempt.failure or Failure(failure_class=FailureClass.UNKNOWN, message="no reason was given")
    if attempt.outcome is Outcome.INTERRUPTED and failure.failure_class not in INFRASTRUCTURE:
        failure = Failure(failure_class=FailureClass.WORKER_LOST, message="the worker stopped")
    return _failed(task, failure, now, resumed_from=attempt.resume_step)


def lost(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Decide what follows the loss of an attempt's worker."""
    if is_fenced(task, placement.attempt):
        return None
    found = {"attempt": placement.attempt, "worker_id": placement.worker_id, "not_before": None}
    task = task.model_copy(update=found)
    if task.stop is StopKind.CANCEL:
        return _cancelled(task, now)
    return _failed(task, Failure(failure_class=FailureClass.WORKER_LOST, message=placement.reason), now)


def _wanted(task: TaskDocument, now: datetime, unmet: Sequence[str], cause: str, **fields: Any) -> Change:
    """Return a task that wants a place, as soon as the tasks are done that it depends on."""
    if unmet:
        phase, reason = TaskPhase.WAITING_DEPENDENCIES, waits_for(unmet)
        waiting = move(task, now, status=TaskStatus.PENDING, phase=phase, reason=reason, **fields)
        return Change(waiting, TaskStatusChanged, cause)
    phase, reason = TaskPhase.WAITING_SLOTS, "waiting for the scheduler"
    return Change(
        move(task, now, status=TaskStatus.PENDING, phase=phase, reason=reason, **fields), TaskReady, cause
    )


def _failed(task: TaskDocument, failure: Failure, now: datetime, resumed_from: int = 0) -> Change:
    """Decide what follows a failure: the task's end, its rest, or another attempt."""
    kind = failure.failure_class
    if kind in INFRASTRUCTURE and _is_pausing(task):
        return _hold(task, now, f"paused; its run was lost meanwhile ({failure.message})")
    if kind is FailureClass.TIMED_OUT and task.config.on_timeout == "pause":
        return _hold(task, now, f"paused: {failure.message}", cause=str(kind), failure=failure)
    found = repair.after(task, failure, now, resumed_from=resumed_from)
    if isinstance(found, repair.GivenUp):
        end = _end(task, now, TaskStatus.FAILED, found.reason, failure=found.failure)
        return Change(end, TaskStatusChanged, str(kind))
    done = found.repair
    if _is_pausing(task):
        held = _hold(task, now, f"paused; {done.reason}", cause=str(kind), **found.fields)
        return Change(held.task, held.event, held.cause, done.changes)
    waiting = move(
        task,
        now,
        status=TaskStatus.PENDING,
        phase=TaskPhase.BACKING_OFF if found.delay else TaskPhase.WAITING_SLOTS,
        not_before=now + found.delay if found.delay else None,
        worker_id=None,
        reason=f"{done.reason} in {found.delay.total_seconds():g} s" if found.delay else done.reason,
        **found.fields,
    )
    return Change(waiting, TaskRetryScheduled, str(kind), done.changes)


def _is_pausing(task: TaskDocument) -> bool:
    return task.stop is StopKind.PAUSE or task.status is TaskStatus.PAUSED


def _at_work(task: TaskDocument) -> bool:
    """Return whether the task's newest attempt may be at work; of a paused one, a run that was on its way."""
    return task.phase in LIVE or (task.phase is TaskPhase.HELD and task.worker_id is not None)


def is_fenced(task: TaskDocument, attempt: int) -> bool:
    """Return whether an attempt has no say any more: the task is over, has a later one, or gave it up."""
    gave_up = attempt == task.attempt and not _at_work(task)
    return task.status in FINAL or attempt < task.attempt or gave_up


def _seconds(attempt: AttemptDocument) -> float:
    if attempt.started_at is None or attempt.ended_at is None:
        return 0.0
    return max(0.0, (attempt.ended_at - attempt.started_at).total_seconds())


def _explained(task: TaskDocument, placement: Placement, now: datetime) -> Change | None:
    """Note what the scheduler says of a run that has its place, such as that its worker is silent."""
    said_at_start = not placement.reason and task.status is not TaskStatus.RUNNING
    if task.phase not in LIVE or task.stop is not None or placement.reason == task.reason or said_at_start:
        return None
    return Change(move(task, now, reason=placement.reason), TaskStatusChanged, "")


def _straggler(task: TaskDocument, attempt: int, worker_id: str | None, now: datetime) -> Change:
    """Note a run that was on its way when the task was paused; the scheduler stops it."""
    reason = "paused; a run that was on its way is being stopped"
    moved = move(task, now, attempt=attempt, worker_id=worker_id, reason=reason)
    return Change(moved, TaskStatusChanged, "placed while paused")


def _hold(task: TaskDocument, now: datetime, reason: str, cause: str = "paused", **fields: Any) -> Change:
    held = move(
        task,
        now,
        status=TaskStatus.PAUSED,
        phase=TaskPhase.HELD,
        stop=None,
        worker_id=None,
        not_before=None,
        paused_at=now,
        reason=reason if "repairs" in fields else f"{reason}; resume {going_on(newest_step(task.checkpoints))}",
        **fields,
    )
    return Change(held, TaskStatusChanged, cause)


def _go_on(task: TaskDocument, now: datetime) -> Change:
    """Queue a run again that was stopped by a pause which was taken back."""
    waiting = move(
        task,
        now,
        status=TaskStatus.PENDING,
        phase=TaskPhase.WAITING_SLOTS,
        worker_id=None,
        reason=f"the pause was taken back; it {going_on(newest_step(task.checkpoints))}",
    )
    return Change(waiting, TaskRetryScheduled, "pause taken back")


def _cancelled(task: TaskDocument, now: datetime) -> Change:
    return Change(_end(task, now, TaskStatus.CANCELLED, "cancelled"), TaskStatusChanged, "cancelled")


def _end(task: TaskDocument, now: datetime, status: TaskStatus, reason: str, **fields: Any) -> TaskDocument:
    over: dict[str, Any] = {"status": status, "phase": TaskPhase.ENDED, "stop": None, "ended_at": now}
    over |= {"not_before": None, "parameter_changes": closed(task)}
    over |= {"failure": None} if status is TaskStatus.COMPLETED else {}
    return move(task, now, reason=reason, **over, **fields)


def _illegal(task: TaskDocument, wish: str) -> IllegalTransition:
    """Return a refusal that names where the task stands and what may be asked of it."""
    if task.status in FINAL:
        legal = "it is over; rerun makes a new task of it"
    elif task.status is TaskStatus.PAUSED:
        legal = "resume it, or cancel it"
    elif task.stop is StopKind.CANCEL:
        legal = "it is being cancelled"
    elif task.stop is StopKind.PAUSE:
        legal = "it is being paused: resume it, or cancel it"
    else:
        fresh = task.phase is TaskPhase.NOT_STARTED
        legal = "start it, pause it, or cancel it" if fresh else "pause it, or cancel it"
    return IllegalTransition(f"task {task.task_id} is {task.status} and cannot be {wish}: {legal}")
