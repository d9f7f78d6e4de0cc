"""What the scheduler reads from the documents of tasks and workers."""

from collections.abc import Iterable

from trainwright.contracts.base import iso
from trainwright.contracts.resource import Slots
from trainwright.contracts.task import FINAL, StopKind, TaskDocument, TaskPhase, TaskStatus
from trainwright.contracts.worker import WorkerDocument

WAITING = frozenset({TaskPhase.WAITING_SLOTS, TaskPhase.WAITING_QUOTA, TaskPhase.BACKING_OFF})
AT_WORK = frozenset(
    {TaskPhase.STARTING, TaskPhase.TRAINING, TaskPhase.CHECKPOINTING, TaskPhase.FINISHING, TaskPhase.STOPPING}
)
"""Phases in which the task has not heard yet how its newest attempt ended."""
SHORTEST = 1.0
"""Seconds that an attempt may train at least: one whose time is up says so itself, with its checkpoint."""


def wants_place(task: TaskDocument) -> bool:
    """Return whether a task asks for a place."""
    return task.status is TaskStatus.PENDING and task.phase in WAITING and task.stop is None


def stop_wish(task: TaskDocument) -> StopKind | None:
    """Return how a run of this task has to stop, if it has to."""
    if task.status in FINAL:
        return StopKind.CANCEL
    return StopKind.PAUSE if task.status is TaskStatus.PAUSED else task.stop


def is_over(task: TaskDocument, attempt: int) -> bool:
    """Return whether the task has heard how this attempt ended, by whatever way that came.

    A paused one that names a worker has heard of a run that was on its way when it was paused.
    """
    at_work = task.phase in AT_WORK or (task.phase is TaskPhase.HELD and task.worker_id is not None)
    return task.attempt >= attempt and not at_work


def waits_for_worker(task: TaskDocument) -> bool:
    """Return whether a run stays where it is although its worker is silent."""
    return task.config.on_unreachable == "wait" and stop_wish(task) is not StopKind.CANCEL


def time_left(task: TaskDocument) -> float | None:
    """Return the seconds that the next attempt may train; None without a limit."""
    timeout = task.config.timeout
    return None if timeout is None else max(timeout - task.ran_seconds, SHORTEST)


def queue_order(task: TaskDocument) -> str:
    """Return text that sorts tasks by priority, then age, then name."""
    return f"{1000 - task.config.priority:05d}/{iso(task.created_at)}/{task.task_id}"


def past_key(task: TaskDocument) -> str:
    """Return what tasks have in common of which one's run says how long another's will take."""
    return f"{task.config.recipe}/{task.name}"


def free_slots(worker: WorkerDocument, taken: Iterable[Slots]) -> Slots:
    """Return what is left of a worker."""
    cpu, memory, gpus = worker.cpus, worker.memory, {gpu.index for gpu in worker.gpus}
    for slots in taken:
        cpu, memory, gpus = cpu - slots.cpu, memory - slots.memory, gpus - set(slots.gpus)
    return Slots(cpu=cpu, memory=memory, gpus=sorted(gpus))
