"""Use cases of the task service: what each fact or request does. No Kafka, no HTTP.

Handlers take the message first and return the events that follow; the runtime saves those in the same
transaction.
"""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from services.task import domain
from services.task.store import PROGRESS, REQUESTS, TASKS, find_task, get_task, note_attempt, save_task
from trainwright.contracts.attempt import AttemptEnded, AttemptStarted
from trainwright.contracts.base import Event, iso
from trainwright.contracts.pulse import AttemptProgressed
from trainwright.contracts.queue import PlacementAssigned, TaskQueued, WorkerLost
from trainwright.contracts.task import TaskConfig, TaskDocument, TaskPhase, TaskStatus, TaskStatusChanged
from trainwright.runtime.clock import Clock
from trainwright.runtime.outbox import announcement, emit
from trainwright.storage.document import DocumentStore, In, Range, Transaction, Where

SCHEDULER, WORKER = "scheduler", "worker"
ANNOUNCE_PHASES = (TaskPhase.WAITING_SLOTS, TaskPhase.BACKING_OFF, TaskPhase.STOPPING)
REQUESTS_KEPT = timedelta(hours=24)


async def create_task(
    config: TaskConfig, *, run: bool, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Accept a task, and ask it to run if so wished."""
    now = clock.now()
    change = domain.created(clock.new_id("task"), config, now)
    events = await _save(change, tx, actor)
    if run:
        ready = domain.start(change.task, now)
        assert ready is not None  # a new task can always be started
        events += await _save(ready, tx, actor)
        change = ready
    return change.task, events


async def start_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Ask a task to run."""
    return await _request(task_id, domain.start, actor=actor, tx=tx, clock=clock)


async def cancel_task(
    task_id: str, *, actor: str, tx: Transaction, clock: Clock
) -> tuple[TaskDocument, list[Event]]:
    """Ask a task to end for good."""
    return await _request(task_id, domain.cancel, actor=actor, tx=tx, clock=clock)


async def on_task_queued(event: TaskQueued, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Show why a task waits."""
    task = await find_task(tx, event.placement.task_id)
    change = domain.queued(task, event.placement, clock.now()) if task else None
    return await _save(change, tx, SCHEDULER)


async def on_placement_assigned(event: PlacementAssigned, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Note a task's new attempt."""
    placement = event.placement
    task = await find_task(tx, placement.task_id)
    change = domain.placed(task, placement, clock.now()) if task else None
    if change is not None:
        await note_attempt(tx, placement.task_id, placement.attempt, worker_id=placement.worker_id)
    return await _save(change, tx, SCHEDULER)


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
            failure_class="worker_lost",
        )
    return await _save(change, tx, SCHEDULER)


async def on_attempt_started(event: AttemptStarted, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Note that a task's run has begun."""
    attempt = event.attempt
    change = await _started(attempt.task_id, attempt.attempt, attempt.worker_id, tx, clock.now())
    await note_attempt(
        tx, attempt.task_id, attempt.attempt, worker_id=attempt.worker_id, started_at=attempt.started_at
    )
    return await _save(change, tx, WORKER)


async def on_attempt_progressed(event: AttemptProgressed, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Keep how far a run has come; a run that reports progress has started, whatever else was lost."""
    task = await find_task(tx, event.task_id)
    if task is None or event.attempt < task.attempt:
        return []
    await tx.put(PROGRESS.name, event.task_id, event.model_dump(mode="json"))
    if event.phase is TaskPhase.STARTING:
        return []
    change = await _started(event.task_id, event.attempt, event.worker_id, tx, clock.now())
    return await _save(change, tx, WORKER)


async def on_attempt_ended(event: AttemptEnded, *, tx: Transaction, clock: Clock) -> Sequence[Event]:
    """Decide what follows the end of an attempt."""
    attempt = event.attempt
    task = await find_task(tx, attempt.task_id)
    change = domain.ended(task, attempt, clock.now()) if task else None
    if change is None:
        return []
    failure_class = attempt.failure.failure_class if attempt.failure else None
    await note_attempt(
        tx,
        attempt.task_id,
        attempt.attempt,
        worker_id=attempt.worker_id,
        started_at=attempt.started_at,
        ended_at=attempt.ended_at,
        outcome=attempt.outcome,
        failure_class=failure_class,
    )
    if attempt.final_step is not None:
        known = await tx.get(PROGRESS.name, attempt.task_id) or {}
        last = {
            "attempt": attempt.attempt,
            "step": attempt.final_step,
            "total_steps": attempt.total_steps,
            "latest_metrics": attempt.model_dump(mode="json")["latest_metrics"],
            "eta_seconds": None,
        }
        await tx.put(PROGRESS.name, attempt.task_id, {**known, **last})
    return await _save(change, tx, WORKER)


async def announce_silent(store: DocumentStore, clock: Clock) -> None:
    """Say again what waits for somebody and was not answered: after 1, 2, 4 … minutes, then every hour."""
    now = clock.now()
    where: Where = {
        "status": In((TaskStatus.PENDING, TaskStatus.RUNNING)),
        "updated_at": Range(lt=iso(now - timedelta(minutes=1))),
    }
    page = await store.find(TASKS.name, where, sort="updated_at", limit=10_000)
    for item in page.items:
        task = TaskDocument.model_validate(item)
        minutes = int((now - task.updated_at).total_seconds() // 60)
        if task.phase not in ANNOUNCE_PHASES or (minutes % 60 and minutes & (minutes - 1)):
            continue
        event = TaskStatusChanged(task=task)
        async with store.transaction() as tx:
            await emit(tx, [event], source="task", cause=announcement(event, clock), clock=clock)


async def forget_requests(store: DocumentStore, clock: Clock) -> None:
    """Drop Idempotency-Keys of more than a day ago."""
    before = iso(clock.now() - REQUESTS_KEPT)
    page = await store.find(REQUESTS.name, {"created_at": Range(lt=before)}, sort="created_at", limit=1000)
    async with store.transaction() as tx:
        for item in page.items:
            await tx.delete(REQUESTS.name, item["key"])


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
    return (change.task if change else task), await _save(change, tx, actor)


async def _started(
    task_id: str, attempt: int, worker_id: str, tx: Transaction, now: datetime
) -> domain.Change | None:
    task = await find_task(tx, task_id)
    return domain.started(task, attempt, worker_id, now) if task else None


async def _save(change: domain.Change | None, tx: Transaction, actor: str) -> list[Event]:
    if change is None:
        return []
    await save_task(tx, change.task, actor=actor, cause=change.cause)
    return [change.event(task=change.task)]
