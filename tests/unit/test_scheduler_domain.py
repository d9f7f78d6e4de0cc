"""Placing: nobody is given what is not there, order is kept, and waiting has a reason."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from services.scheduler.domain.planning import plan
from services.scheduler.domain.pool import Host, Needs, Room, free_room
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.tasks import queue_order, time_left, waits_for_worker, wants_place
from services.task import domain as task_domain
from tests.scheduling_kit import NOW as AT
from tests.scheduling_kit import a_host, a_run, a_state, placed, places, reasons
from trainwright.contracts.task import StopKind, TaskStatus
from trainwright.contracts.task_config import TaskConfig

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def needing(name: str, gpu: int = 0, cpu: float = 1, memory: int = 0) -> Waiting:
    return Waiting(name, Needs(gpu, cpu, memory))


def test_the_first_in_the_queue_gets_the_place() -> None:
    queue = [needing("a", cpu=3), needing("b", cpu=3), needing("c", cpu=1)]
    found = placed([a_host()], queue)
    assert list(places(found)) == ["a", "c"]
    assert reasons(found, queue) == {"b": "waiting for a free place"}


def test_a_task_sees_only_gpus_that_are_its_own() -> None:
    queue = [needing("a", gpu=2, cpu=0), needing("b", gpu=1, cpu=0)]
    found = placed([a_host(gpus=4)], queue, [a_run("r", [("worker-1", Room((1,)))])])
    assert [seat.parts[0][1].gpus for seat in found.seats] == [(0, 2), (3,)]


def test_what_never_fits_is_told_apart_from_what_waits_its_turn() -> None:
    def why(hosts: list[Host], waiting: Waiting) -> str:
        return reasons(placed(hosts, [waiting]), [waiting])["a"]

    assert why([a_host()], needing("a", gpu=1)) == (
        "waiting for a larger worker: none has 1 GPU (the most is 0 GPU)"
    )
    huge = why([a_host(memory=2**34)], needing("a", memory=2**53))
    assert huge.endswith("none has 8,388,608.0 GiB memory (the most is 16.0 GiB memory)")
    apart = [a_host("w1", cpus=8, memory=2**30), a_host("w2", cpus=1, memory=2**34)]
    both = why(apart, needing("a", cpu=8, memory=2**34))
    assert both == "waiting for a larger worker: none has 8 CPU and 16.0 GiB memory"
    assert why([], needing("a")) == "waiting for a worker: none is connected"


def test_one_that_only_drained_workers_could_take_is_told_so_and_what_to_do() -> None:
    def why(hosts: list[Host], drained: list[Host], waiting: Waiting) -> str:
        state = a_state(hosts, [waiting])
        state.pool.drained = {host.worker_id: host for host in drained}
        return reasons(plan(state, AT), [waiting])["a"]

    big, small = a_host("big", gpus=2), a_host("small")
    assert why([], [big], needing("a")) == (
        "waiting for a worker: big is drained; `trainwright worker undrain big` takes it in again"
    )
    assert why([], [big, small], needing("a")) == (
        "waiting for a worker: big, small are drained; `trainwright worker undrain ID` takes one in again"
    )
    assert why([small], [big], needing("a", gpu=1)) == (
        "waiting for a larger worker: none has 1 GPU (the most is 0 GPU); "
        "big is drained; `trainwright worker undrain big` takes it in again"
    )
    assert "drained" not in why([big], [small], needing("a", gpu=4)), "it would be of no use"
    few = Waiting("a", Needs(members=2))
    assert why([big], [small], few).startswith("waiting for more workers: 1 of 2 that it asks for at once")
    assert why([big], [small], few).endswith(
        "small is drained; `trainwright worker undrain small` takes it in again"
    )


def test_a_worker_to_be_avoided_is_used_only_when_no_other_is_large_enough() -> None:
    bad, good, small = a_host("bad"), a_host("good"), a_host("small", cpus=1)
    waiting = Waiting("a", Needs(cpu=2), avoid=("bad",))
    (seat,) = placed([bad, good, small], [waiting]).seats
    assert (seat.parts[0][0], seat.reason) == ("good", "")
    busy = placed([bad, good], [waiting], [a_run("r", [("good", Room(cpu=4))])])
    assert reasons(busy, [waiting]) == {
        "a": "waiting for a free place on another worker than bad, where it failed"
    }
    (seat,) = placed([bad, small], [waiting]).seats
    assert (seat.parts[0][0], "no other one is large enough" in seat.reason) == ("bad", True)
    full = placed([bad, small], [waiting], [a_run("r", [("bad", Room(cpu=4))])])
    assert reasons(full, [waiting]) == {"a": "waiting for a free place"}


def test_a_task_that_lost_its_worker_goes_to_another_one_if_there_is_room() -> None:
    waiting = Waiting("a", Needs(cpu=2), lost_on="w1")
    hosts = [a_host("w1"), a_host("w2")]
    assert places(placed(hosts, [waiting])) == {"a": ["w2"]}
    assert places(placed(hosts, [waiting], [a_run("r", [("w2", Room(cpu=4))])])) == {"a": ["w1"]}


def test_a_task_waits_for_its_next_try_and_competes_from_then_on() -> None:
    later = Waiting("a", Needs(), not_before=AT + 1)
    state = a_state([a_host()], [later])
    assert not plan(state, AT).seats
    state.queue.wake(AT + 1)
    assert places(plan(state, AT + 1)) == {"a": ["worker-1"]}


def test_the_time_left_is_what_earlier_attempts_have_not_used() -> None:
    task = task_domain.created("a", TaskConfig(recipe="script", timeout=60), NOW).task
    assert time_left(task.model_copy(update={"ran_seconds": 45.5})) == 14.5
    assert time_left(task.model_copy(update={"ran_seconds": 70})) == 1
    assert time_left(task_domain.created("a", TaskConfig(recipe="script"), NOW).task) is None


def test_a_run_is_waited_for_until_somebody_cancels_it() -> None:
    task = task_domain.created("a", TaskConfig(recipe="script", on_unreachable="wait"), NOW).task
    assert waits_for_worker(task)
    assert waits_for_worker(task.model_copy(update={"stop": StopKind.PAUSE}))
    assert not waits_for_worker(task.model_copy(update={"stop": StopKind.CANCEL}))
    assert not waits_for_worker(task.model_copy(update={"status": TaskStatus.CANCELLED}))


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
    hosts = [a_host(f"w{n}", gpus=g, cpus=c, memory=m) for n, (g, c, m) in enumerate(sizes)]
    found = placed(hosts, queue)
    why = reasons(found, queue)
    assert len(found.seats) + len(why) == len(queue)
    left = {}
    for host in hosts:
        parts = [part for seat in found.seats for name, part in seat.parts if name == host.worker_id]
        left[host.worker_id] = free_room(host, parts)
        indices = [index for part in parts for index in part.gpus]
        assert left[host.worker_id].cpu >= 0
        assert left[host.worker_id].memory >= 0
        assert len(indices) == len(set(indices)) <= len(host.gpus)
    kept = found.held.workers if found.held else ()
    for waiting in queue:  # work conserving: whoever waits fits nowhere, but where places are kept for another
        if waiting.task_id in why:
            own = found.held is not None and found.held.task_id == waiting.task_id
            rest = [host for host in hosts if own or host.worker_id not in kept]
            assert all(host.pick(waiting.needs, left[host.worker_id]) is None for host in rest)
