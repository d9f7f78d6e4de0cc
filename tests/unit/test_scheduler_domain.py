"""Placing: nobody is given what is not there, order is kept, and waiting has a reason."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain import Waiting, free_slots, plan, queue_order, wants_place
from services.task import domain as task_domain
from trainwright.contracts.resource import Gpu, ResourceRequirements, Slots
from trainwright.contracts.task import TaskConfig
from trainwright.contracts.worker import WorkerDocument

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_worker(name: str = "worker-1", *, cpus: float = 4, memory: int = 100, gpus: int = 0) -> WorkerDocument:
    return WorkerDocument(
        worker_id=name,
        incarnation="one",
        version=1,
        hostname="test",
        cpus=cpus,
        memory=memory,
        gpus=[Gpu(index=index, model="test", memory=10) for index in range(gpus)],
        registered_at=NOW,
    )


def needing(name: str, **needs: float) -> Waiting:
    return Waiting(name, ResourceRequirements.model_validate(needs))


def test_the_first_in_the_queue_gets_the_place() -> None:
    found = plan([needing("a", cpu=3), needing("b", cpu=3), needing("c", cpu=1)], [a_worker()], {}, NOW)
    assert [seat.task_id for seat in found.seats] == ["a", "c"]
    assert found.reasons == {"b": "waiting for a free place"}


def test_a_task_sees_only_gpus_that_are_its_own() -> None:
    queue = [needing("a", gpu=2, cpu=0), needing("b", gpu=1, cpu=0)]
    found = plan(queue, [a_worker(gpus=4)], {"worker-1": [Slots(gpus=[1])]}, NOW)
    assert [seat.slots.gpus for seat in found.seats] == [[0, 2], [3]]


def test_what_never_fits_is_told_apart_from_what_waits_its_turn() -> None:
    assert plan([needing("a", gpu=1)], [a_worker()], {}, NOW).reasons["a"] == (
        "waiting for a larger worker: none has 1 GPU (the most is 0 GPU)"
    )
    huge = plan([needing("a", memory=2**53)], [a_worker(memory=2**34)], {}, NOW).reasons["a"]
    assert huge.endswith("none has 8,388,608.0 GiB memory (the most is 16.0 GiB memory)")
    apart = [a_worker("w1", cpus=8, memory=2**30), a_worker("w2", cpus=1, memory=2**34)]
    both = plan([needing("a", cpu=8, memory=2**34)], apart, {}, NOW).reasons["a"]
    assert both == "waiting for a larger worker: none has 8 CPU and 16.0 GiB memory"
    assert plan([needing("a")], [], {}, NOW).reasons["a"] == "waiting for a worker: none is connected"
    later = Waiting("a", ResourceRequirements(), NOW + timedelta(seconds=1))
    assert plan([later], [a_worker()], {}, NOW).reasons["a"] == "waiting for its next try"


def test_the_queue_is_ordered_by_priority_then_age() -> None:
    def task(name: str, priority: int, age: int) -> str:
        config = TaskConfig(recipe="script", priority=priority)
        return queue_order(task_domain.created(name, config, NOW - timedelta(seconds=age)).task)

    low, old, young, high = task("a", -5, 90), task("b", 0, 60), task("c", 0, 30), task("d", 1000, 1)
    assert sorted([low, young, old, high]) == [high, old, young, low]


def test_a_task_that_was_not_asked_to_run_wants_no_place() -> None:
    task = task_domain.created("a", TaskConfig(recipe="script"), NOW).task
    assert not wants_place(task)
    started = task_domain.start(task, NOW)
    assert started is not None
    assert wants_place(started.task)


@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.integers(0, 60)), max_size=20),
    st.lists(st.tuples(st.integers(0, 4), st.integers(1, 8), st.integers(0, 100)), max_size=5),
)
def test_no_worker_is_ever_overcommitted(
    needs: list[tuple[int, int, int]], sizes: list[tuple[int, int, int]]
) -> None:
    queue = [needing(f"t{n}", gpu=gpu, cpu=cpu, memory=memory) for n, (gpu, cpu, memory) in enumerate(needs)]
    workers = [a_worker(f"w{n}", gpus=g, cpus=c, memory=m) for n, (g, c, m) in enumerate(sizes)]
    found = plan(queue, workers, {}, NOW)
    assert len(found.seats) + len(found.reasons) == len(queue)
    for worker in workers:
        slots = [seat.slots for seat in found.seats if seat.worker.worker_id == worker.worker_id]
        left = free_slots(worker, slots)
        indices = [index for taken in slots for index in taken.gpus]
        assert left.cpu >= 0
        assert left.memory >= 0
        assert len(indices) == len(set(indices)) <= len(worker.gpus)
    for task_id in found.reasons:  # work conserving: whoever waits fits nowhere
        waiting = next(item for item in queue if item.task_id == task_id)
        for worker in workers:
            left = free_slots(worker, [s.slots for s in found.seats if s.worker.worker_id == worker.worker_id])
            fits = (
                waiting.needs.cpu <= left.cpu
                and waiting.needs.memory <= left.memory
                and waiting.needs.gpu <= len(left.gpus)
            )
            assert not fits
