"""Placing tasks: pure functions over what is free and what waits. No I/O, no clock.

First fit in the order of priority, then age. Fair share, quotas, backfill without delay of the head, gangs and
preemption are not here yet.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from trainwright.contracts.base import iso
from trainwright.contracts.resource import ResourceRequirements, Slots
from trainwright.contracts.task import FINAL, StopKind, TaskDocument, TaskPhase, TaskStatus
from trainwright.contracts.worker import WorkerDocument

WAITING = frozenset({TaskPhase.WAITING_SLOTS, TaskPhase.BACKING_OFF})


@dataclass(frozen=True, slots=True)
class Waiting:
    """A task that wants a place."""

    task_id: str
    needs: ResourceRequirements
    not_before: datetime | None = None


@dataclass(frozen=True, slots=True)
class Seat:
    """Where a task goes."""

    task_id: str
    worker: WorkerDocument
    slots: Slots


@dataclass(frozen=True, slots=True)
class Plan:
    """The outcome of one pass: who goes where, and why the others wait."""

    seats: Sequence[Seat]
    reasons: dict[str, str]


def wants_place(task: TaskDocument) -> bool:
    """Return whether a task asks for a place."""
    return task.status is TaskStatus.PENDING and task.phase in WAITING and task.stop is None


def stop_wish(task: TaskDocument) -> StopKind | None:
    """Return how a run of this task has to stop, if it has to."""
    return task.stop or (StopKind.CANCEL if task.status in FINAL else None)


def queue_order(task: TaskDocument) -> str:
    """Return text that sorts tasks by priority, then age, then name."""
    return f"{1000 - task.config.priority:05d}/{iso(task.created_at)}/{task.task_id}"


def free_slots(worker: WorkerDocument, taken: Iterable[Slots]) -> Slots:
    """Return what is left of a worker."""
    cpu, memory, gpus = worker.cpus, worker.memory, {gpu.index for gpu in worker.gpus}
    for slots in taken:
        cpu, memory, gpus = cpu - slots.cpu, memory - slots.memory, gpus - set(slots.gpus)
    return Slots(cpu=cpu, memory=memory, gpus=sorted(gpus))


def plan(
    queue: Iterable[Waiting], workers: Sequence[WorkerDocument], taken: dict[str, list[Slots]], now: datetime
) -> Plan:
    """Give each waiting task, in order, the first worker that has room.

    Args:
        queue: Tasks in their order.
        workers: Workers that take attempts, in a stable order.
        taken: Slots in use by worker id.
        now: Tasks whose ``not_before`` is later stay where they are.
    """
    free = {worker.worker_id: free_slots(worker, taken.get(worker.worker_id, [])) for worker in workers}
    seats: list[Seat] = []
    reasons: dict[str, str] = {}
    for waiting in queue:
        if waiting.not_before is not None and waiting.not_before > now:
            reasons[waiting.task_id] = "waiting for its next try"
            continue
        for worker in workers:
            slots = _take(waiting.needs, worker, free[worker.worker_id])
            if slots is not None:
                seats.append(Seat(waiting.task_id, worker, slots))
                free[worker.worker_id] = _minus(free[worker.worker_id], slots)
                break
        else:
            reasons[waiting.task_id] = why_not(waiting.needs, workers)
    return Plan(seats, reasons)


def why_not(needs: ResourceRequirements, workers: Sequence[WorkerDocument]) -> str:
    """Return the class of reason for which a task waits, in words."""
    if not workers:
        return "waiting for a worker: none is connected"
    if any(_take(needs, worker, free_slots(worker, [])) is not None for worker in workers):
        return "waiting for a free place"
    return f"waiting for a larger worker: none has {' and '.join(_lacking(needs, workers))}"


def _lacking(needs: ResourceRequirements, workers: Sequence[WorkerDocument]) -> list[str]:
    """Return what no worker has alone, with the most that there is; everything when it is the combination."""
    idle = [free_slots(worker, []) for worker in workers]
    asked: list[tuple[float, float, Callable[[float], str]]] = [
        (needs.gpu, max(len(slots.gpus) for slots in idle), lambda n: f"{n:g} GPU"),
        (needs.cpu, max(slots.cpu for slots in idle), lambda n: f"{n:g} CPU"),
        (needs.memory, max(slots.memory for slots in idle), lambda n: f"{_gib(n)} memory"),
        (
            needs.gpu_memory,
            max((gpu.memory for worker in workers for gpu in worker.gpus), default=0),
            lambda n: f"{_gib(n)} GPU memory",
        ),
    ]
    lacking = [f"{words(need)} (the most is {words(most)})" for need, most, words in asked if need > most]
    return lacking or [words(need) for need, _, words in asked if need]


def _gib(amount: float) -> str:
    return f"{amount / 2**30:,.1f} GiB"


def _take(needs: ResourceRequirements, worker: WorkerDocument, free: Slots) -> Slots | None:
    memory_of = {gpu.index: gpu.memory for gpu in worker.gpus}
    gpus = [index for index in free.gpus if memory_of[index] >= needs.gpu_memory]
    if needs.cpu > free.cpu + 1e-9 or needs.memory > free.memory or needs.gpu > len(gpus):
        return None
    return Slots(cpu=needs.cpu, memory=needs.memory, gpus=gpus[: needs.gpu])


def _minus(free: Slots, slots: Slots) -> Slots:
    return Slots(
        cpu=free.cpu - slots.cpu,
        memory=free.memory - slots.memory,
        gpus=[index for index in free.gpus if index not in slots.gpus],
    )
