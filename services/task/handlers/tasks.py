"""Use cases of tasks: what each fact or request does. No Kafka, no HTTP.

Handlers take the message first and return the events that follow; the runtime saves those in the same
transaction.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import partial
from typing import Any

from services.task import domain
from services.task.handlers.edits import unmet_of
from services.task.handlers.quotas import check_quota
from services.task.handlers.saving import save
from services.task.store import (
    PROGRESS,
    find_task,
    get_task,
    last_progress,
    note_attempt,
    note_members,
    set_dependencies,
    trains,
    unmet_dependencies,
)
from trainwright.contracts.attempt import (
    AttemptDocument,
    AttemptEnded,
    AttemptStarted,
    CheckpointSaved,
    ParametersApplied,
    ParametersRejected,
)
from trainwright.contracts.base import Event
from trainwright.contracts.failure import FailureClass
from trainwright.contracts.gang import MemberEnded
from trainwright.contracts.pulse import AttemptProgressed
from trainwright.contracts.queue import PlacementAssigned, TaskQueued, WorkerLost
from trainwright.contracts.task import TaskDocument, TaskPhase
from trainwright.contracts.task_config import TaskConfig
from trainwright.runtime.clock import Clock
from trainwright.storage.document import Transaction
from trainwright.storage.meeting import meet

SCHEDULER, WORKER = "scheduler", "worker"


async def create_task(
    config: TaskConfig, *, run: bool, actor: str, tx: Transaction, clock: Clock, **origin: Any
) -> tuple[TaskDocument, list[Event]]:
    """Accept a task, and ask it to run if so wished; ``origin`` says what it comes from and depends on.

    Raises:
        InvalidInput: It depends on a task that there is not, or that will never complete.
        ResourceLimitError: Its strategy's quota can never admit it.
    """
    now = clock.now()
    await check_quota(config, tx, "config.resource_requirements.")
    others = list(dict.fromkeys(origin.pop("depends_on", ())))
    unmet = await unmet_of(others, None, origin.get("on_dependency_failure", "fail"), tx)
    change = domain.created(clock.new_id("task"), config, now, depends_on=others, **origin)
    await set_dependencies(tx, change.task.task_id, unmet)
    events = await save(change, tx, actor)
    if run:
        ready = domain.start(change.task, now, unmet=unmet)
        assert ready is not None  # a new task can always be started
        events += await save(ready, tx, actor)
        change = ready
    return change.task, events


async def start_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Ask a task to run."""
    decide = partial(domain.start, unmet=await _unmet(task_id, tx))
    return await _request(task_id, decide, actor=actor, tx=tx, clock=clock)


async def _unmet(task_id: str, tx: Transaction) -> list[str]:
    """Return what a task still waits for; the end of one of these looks at whether the task wants to run."""
    unmet = await unmet_dependencies(tx, task_id)
    if unmet:
        await meet(tx, task_id)
    return unmet


async def pause_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Ask a task to rest."""
    task = await get_task(tx, task_id)
    last = await last_progress(tx, task_id, task.attempt)
    trains = last.get("phase") not in (None, TaskPhase.STARTING)
    decide = partial(domain.pause, asks_stop=last.get("asks_stop") if trains else None)
    return await _request(task_id, decide, actor=actor, tx=tx, clock=clock)


async def resume_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Ask a paused task to go on."""
    decide = partial(domain.resume, unmet=await _unmet(task_id, tx))
    return await _request(task_id, decide, actor=actor, tx=tx, clock=clock)


async def cancel_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Ask a task to end for good."""
    return await _request(task_id, domain.cancel, actor=actor, tx=tx, clock=clock)


async def on_task_queued(event: TaskQueued, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Show why a task waits."""
    task = await find_task(tx, event.placement.task_id)
    change = domain.queued(task, event.placement, clock.now()) if task else None
    return await save(change, tx, SCHEDULER)


async def on_placement_assigned(event: PlacementAssigned, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Note a task's new attempt."""
    placement = event.placement
    task = await find_task(tx, placement.task_id)
    change = domain.placed(task, placement, clock.now()) if task else None
    if change is not None:
        await note_attempt(tx, placement.task_id, placement.attempt, worker_id=placement.worker_id)
        members = {one.rank: {"worker_id": one.worker_id} for one in placement.members}
        if members:
            await note_members(tx, placement.task_id, placement.attempt, members)
    return await save(change, tx, SCHEDULER)


async def on_worker_lost(event: WorkerLost, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Let a task whose worker is gone run again, at no charge."""
    placement, now = event.placement, clock.now()
    task = await find_task(tx, placement.task_id)
    change = domain.lost(task, placement, now) if task else None
    if change is not None:
        await note_attempt(
            tx,
            placement.task_id,
            placement.attempt,
            worker_id=placement.worker_id,
            ended_at=now,
            outcome="lost",
            failure_class=FailureClass.WORKER_LOST,
            message=placement.reason,
        )
    return await save(change, tx, SCHEDULER)


async def on_attempt_started(event: AttemptStarted, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Note that a task's run has begun."""
    attempt = event.attempt
    await note_attempt(
        tx,
        attempt.task_id,
        attempt.attempt,
        worker_id=attempt.worker_id,
        started_at=attempt.started_at,
        resume_step=attempt.resume_step,
    )
    return await _reported(attempt, tx, clock)


async def on_checkpoint_saved(event: CheckpointSaved, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Keep what a task can go on from."""
    return await _reported(event.attempt, tx, clock)


async def on_parameters_answered(
    event: ParametersApplied | ParametersRejected, *, tx: Transaction, clock: Clock
) -> Sequence[Event]:
    """Note from which step changed parameters hold, or why the run has refused them."""
    return await _reported(event.attempt, tx, clock)


async def on_attempt_progressed(event: AttemptProgressed, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Keep how far a run has come; a run that reports progress has started, whatever else was lost."""
    at_work = await trains(tx, event.task_id, event.attempt)
    task = None if at_work else await find_task(tx, event.task_id)
    if not at_work and (task is None or domain.is_fenced(task, event.attempt)):
        return []
    said = event.model_dump(mode="json")
    if not event.latest_metrics:  # it has logged nothing yet: it stands where it went on from
        said |= await _stands(tx, event.task_id, None if event.phase is TaskPhase.STARTING else event.step)
    await tx.put(PROGRESS.name, event.task_id, said)
    if task is None or event.phase is TaskPhase.STARTING:
        return []
    change = domain.started(task, event.attempt, event.worker_id, clock.now())
    return await save(change, tx, WORKER)


async def on_member_ended(event: MemberEnded, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Note how one of several workers ended its part of an attempt; what the attempt's end is, is said later."""
    member = event.member
    if await find_task(tx, member.task_id) is not None:
        fields: dict[str, Any] = {"worker_id": member.worker_id, "state": member.outcome}
        if member.failure is not None:
            fields |= {"failure_class": member.failure.failure_class, "message": member.failure.message}
        await note_members(tx, member.task_id, member.attempt, {member.rank: fields})
    return []


async def on_attempt_ended(event: AttemptEnded, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Decide what follows the end of an attempt."""
    attempt = event.attempt
    task = await find_task(tx, attempt.task_id)
    change = domain.ended(task, attempt, clock.now()) if task else None
    if change is None:
        return []
    await note_attempt(
        tx,
        attempt.task_id,
        attempt.attempt,
        worker_id=attempt.worker_id,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome,
        failure_class=attempt.failure.failure_class if attempt.failure else None,
        message=attempt.failure.message if attempt.failure else None,
        resume_step=attempt.resume_step,
        final_step=attempt.final_step,
    )
    known = await tx.get(PROGRESS.name, attempt.task_id) or {}
    last = {"task_id": attempt.task_id, "attempt": attempt.attempt, "eta_seconds": None}
    if attempt.final_step is None:
        last |= await _stands(tx, attempt.task_id, attempt.resume_step)
    else:
        last |= {
            "step": attempt.final_step,
            "total_steps": attempt.total_steps,
            "latest_metrics": attempt.model_dump(mode="json")["latest_metrics"],
        }
    await tx.put(PROGRESS.name, attempt.task_id, {**known, **last})
    return await save(change, tx, WORKER)


async def _stands(tx: Transaction, task_id: str, step: int | None) -> dict[str, Any]:
    """Return the progress of an attempt that has logged nothing: it went on from `step`, if that is known yet."""
    known = await tx.get(PROGRESS.name, task_id) or {}
    here = known.get("step", 0) if step is None else step
    latest = known.get("latest_metrics", {}) if known.get("step") == here else {}
    return {"step": here, "total_steps": known.get("total_steps"), "latest_metrics": latest}


async def _request(
    task_id: str,
    decide: Callable[[TaskDocument, datetime], domain.Change | None],
    *,
    actor: str,
    tx: Transaction,
    clock: Clock,
) -> tuple[TaskDocument, list[Event]]:
    task = await get_task(tx, task_id)
    change = decide(task, clock.now())
    return (change.task if change else task), await save(change, tx, actor)


async def _reported(attempt: AttemptDocument, tx: Transaction, clock: Clock) -> list[Event]:
    task = await find_task(tx, attempt.task_id)
    change = domain.reported(task, attempt, clock.now()) if task else None
    return await save(change, tx, WORKER)
