"""Why a task waits: what blocks it is named, what would unblock it is told, an estimate says what it rests on."""

from typing import Any

import pytest

from services.scheduler.domain.planning import plan
from services.scheduler.domain.pool import Host, Needs, Room
from services.scheduler.domain.queue import Waiting
from services.scheduler.domain.shares import Quota
from services.scheduler.domain.state import LIMIT, PAST_RUNS, Reservation, State
from services.scheduler.domain.why import why
from tests.scheduling_kit import NOW, a_host, a_run, a_state, places
from trainwright.contracts.queue import WaitClass
from trainwright.contracts.waiting import Why


def asked(state: State, task_id: str) -> Why:
    return why(state, state.queue.waiting[task_id], NOW, {"r": "nightly"})


def test_the_first_in_the_order_is_told_whom_it_waits_for_and_when_that_ends() -> None:
    run = a_run("r", [("worker-1", Room((0, 1), 2))], ends=NOW + 600, basis=LIMIT)
    state = a_state([a_host(gpus=2)], [Waiting("a", Needs(2)), Waiting("b", Needs(1), age=1)], [run])
    found = asked(state, "a")
    assert (found.waits_for, found.position, found.waiting) == (WaitClass.SLOTS, 1, 2)
    assert [(one.kind, one.id, one.name) for one in found.blocked_by] == [("task", "r", "nightly")]
    assert found.unblocked_by == ["r ends"]
    assert found.estimate is not None
    assert found.estimate.starts_at is not None
    assert (found.estimate.starts_at.timestamp(), found.estimate.basis) == (
        NOW + 600,
        "the limit of what runs there",
    )
    assert found.estimate.certain


def test_one_behind_the_first_is_told_for_whom_places_are_kept() -> None:
    run = a_run("r", [("worker-1", Room((0,), 1))], ends=NOW + 600, basis=PAST_RUNS)
    queue = [Waiting("a", Needs(2)), Waiting("b", Needs(1), age=1)]
    state = a_state([a_host(gpus=2)], queue, [run])
    assert places(plan(state, NOW)) == {}
    found = asked(state, "b")
    assert (found.position, found.blocked_by[0].id) == (2, "a")
    assert found.unblocked_by[-1] == "a starts or the task has a `timeout` that ends before that"
    assert found.estimate is not None
    assert not found.estimate.certain


def test_a_drained_worker_that_would_do_is_named_as_what_would_unblock_it() -> None:
    state = a_state([], [Waiting("a", Needs(1)), Waiting("b", Needs(8))])
    state.pool.drained = {"worker-1": a_host(gpus=2)}
    assert asked(state, "a").unblocked_by == ["worker worker-1 is undrained", "a worker connects"]
    assert asked(state, "b").unblocked_by == ["a worker connects"]
    state.pool.set(a_host("worker-2"), a_host("worker-2").all)
    assert asked(state, "a").unblocked_by[0] == "worker worker-1 is undrained"


def test_an_end_that_nobody_knows_is_called_unknown() -> None:
    state = a_state([a_host()], [Waiting("a", Needs(cpu=4))], [a_run("r", [("worker-1", Room(cpu=1))])])
    found = asked(state, "a")
    assert found.estimate is not None
    assert (found.estimate.starts_at, found.estimate.certain) == (None, False)
    assert "no `timeout`, no past runs" in found.estimate.basis


@pytest.mark.parametrize(
    ("needs", "hosts", "wait", "unblock"),
    [
        (Needs(), [], WaitClass.WORKER, "a worker connects"),
        (Needs(4), [a_host(gpus=2)], WaitClass.SIZE, "a worker with 4 GPU, 1 CPU connects"),
        (Needs(1, members=2), [a_host(gpus=2)], WaitClass.SIZE, "the task asks for less"),
    ],
)
def test_what_never_fits_is_told_what_would_do(
    needs: Needs, hosts: list[Host], wait: WaitClass, unblock: str
) -> None:
    found = asked(a_state(hosts, [Waiting("a", needs)]), "a")
    assert (found.waits_for, found.estimate) == (wait, None)
    assert unblock in found.unblocked_by


RAISED = "the quota is raised: `trainwright resource set-quota`"


def test_a_quota_is_named_with_the_runs_that_use_it_up() -> None:
    run = a_run("r", [("worker-1", Room(cpu=1))], strategy="s", ends=NOW + 60, basis=LIMIT)
    state = a_state([a_host()], [Waiting("a", Needs(cpu=1.5), strategy="s")], [run], quotas={"s": Quota()})
    found = asked(state, "a")
    assert (found.waits_for, found.strategy) == (WaitClass.QUOTA, "s")
    assert found.reason == "waiting for the quota of strategy s: it may have 2 CPU (50 % of 4) at a time"
    assert [(one.kind, one.id) for one in found.blocked_by] == [("quota", "s"), ("task", "r")]
    assert found.blocked_by[0].reason == "1 of 2 CPU in use, this one asks for 1.5"
    assert found.unblocked_by == ["r ends", RAISED]
    assert found.estimate is not None
    assert found.estimate.starts_at is not None
    assert found.estimate.starts_at.timestamp() == NOW + 60


@pytest.mark.parametrize(
    ("most", "unblock", "starts"),
    [
        (3, "one of the 3 runs of strategy s ends", NOW + 10),
        (2, "enough of the 3 runs of strategy s end", NOW + 20),  # lowered below what is in use
        (1, "enough of the 3 runs of strategy s end", NOW + 30),
    ],
)
def test_a_quota_says_how_many_of_its_runs_have_to_end(most: int, unblock: str, starts: float) -> None:
    places = [Room(cpu=0.1)] * 3
    runs = [
        a_run(f"r{n}", [("worker-1", room)], strategy="s", ends=NOW + 10 * n, basis=LIMIT)
        for n, room in enumerate(places, 1)
    ]
    queue = [Waiting("a", Needs(cpu=0.1), strategy="s")]
    found = asked(a_state([a_host()], queue, runs, quotas={"s": Quota(max_workers=most)}), "a")
    assert found.unblocked_by[0] == unblock
    assert found.estimate is not None
    assert found.estimate.starts_at is not None
    assert found.estimate.starts_at.timestamp() == starts


def test_only_runs_whose_end_is_enough_are_named() -> None:
    runs = [
        a_run("small", [("worker-1", Room(cpu=0.5))], strategy="s"),
        a_run("large", [("worker-1", Room(cpu=1.5))], strategy="s"),
    ]
    state = a_state([a_host()], [Waiting("a", Needs(cpu=1), strategy="s")], runs, quotas={"s": Quota()})
    found = asked(state, "a")
    assert (found.unblocked_by[0], found.estimate) == ("large ends", None)


@pytest.mark.parametrize(
    ("needs", "quota", "reason", "unblock"),
    [
        (
            Needs(cpu=3),
            Quota(),
            "waiting for more workers or a larger quota of strategy s: asks for 3, may have 2 CPU (50 % of 4)",
            ["workers connect, for 6 CPU in all", RAISED, "the task asks for less"],
        ),
        (
            Needs(cpu=3, members=2),
            Quota(max_workers=1),
            "never fits the quota of strategy s: asks for 2, may have 1 workers",
            [RAISED, "the task asks for less"],
        ),
    ],
)
def test_a_quota_that_is_too_small_by_itself_is_said_to_grow_only_where_it_does(
    needs: Needs, quota: Quota, reason: str, unblock: list[str]
) -> None:
    run = a_run("r", [("worker-1", Room(cpu=1))], strategy="s", ends=NOW + 60, basis=LIMIT)
    hosts = [a_host("worker-1"), a_host("worker-2")][: needs.members]
    found = asked(a_state(hosts, [Waiting("a", needs, strategy="s")], [run], quotas={"s": quota}), "a")
    assert (found.reason, found.unblocked_by, found.estimate) == (reason, unblock, None)
    assert [one.kind for one in found.blocked_by] == ["quota"]  # the run is not in its way


def test_workers_that_are_missing_are_counted() -> None:
    found = asked(a_state([a_host()], [Waiting("a", Needs(members=2))]), "a")
    assert found.unblocked_by == ["a worker with 1 CPU connects", "the task asks for less"]
    found = asked(a_state([a_host()], [Waiting("a", Needs(members=3))]), "a")
    assert found.unblocked_by == ["2 more workers with 1 CPU connect", "the task asks for less"]


def test_one_that_would_fit_beside_the_first_is_not_told_of_runs_that_are_not_in_its_way() -> None:
    run = a_run("r", [("worker-1", Room(cpu=3))], ends=NOW + 600, basis=LIMIT)
    queue = [Waiting("a", Needs(cpu=4)), Waiting("b", Needs(cpu=1), age=1), Waiting("c", Needs(cpu=2), age=2)]
    state = a_state([a_host()], queue, [run])
    beside = asked(state, "b")
    assert [one.id for one in beside.blocked_by] == ["a"]
    assert beside.unblocked_by == ["a starts or the task has a `timeout` that ends before that"]
    behind = asked(state, "c")  # there is no room for it: no promise helps
    assert [one.id for one in behind.blocked_by] == ["a", "r"]
    assert behind.unblocked_by == ["r ends", "a starts"]


def test_one_that_is_not_submitted_counts_among_those_that_wait() -> None:
    run = a_run("r", [("worker-1", Room(cpu=4))])
    state = a_state([a_host()], [Waiting("a", Needs())], [run])
    found = why(state, Waiting("not submitted", Needs(), age=1), NOW, {})
    assert (found.position, found.waiting) == (2, 2)


def test_a_pause_and_a_reservation_are_named() -> None:
    kept = Reservation("reservation-1", "worker-1", Room(cpu=3), NOW + 50, strategy="s")
    queue = [Waiting("a", Needs(cpu=2)), Waiting("b", Needs(), not_before=NOW + 9)]
    state = a_state([a_host()], queue, reservations=[kept])
    found = asked(state, "a")
    assert [(one.kind, one.id) for one in found.blocked_by] == [("reservation", "reservation-1")]
    assert found.unblocked_by == ["reservation reservation-1 ends"]
    later = asked(state, "b")
    assert (later.waits_for, later.position, later.unblocked_by) == (WaitClass.LATER, None, ["its pause is over"])


def test_the_position_counts_who_goes_first_by_priority_share_and_age() -> None:
    run = a_run("r", [("worker-1", Room(cpu=4))], strategy="busy")
    queue = [
        Waiting("high", Needs(cpu=4), priority=9, age=5, strategy="busy"),
        Waiting("old", Needs(cpu=4), age=1, strategy="busy"),
        Waiting("idle", Needs(cpu=3), age=4, strategy="idle"),
        Waiting("low", Needs(cpu=4), priority=-1, age=0, strategy="idle"),
    ]
    state = a_state([a_host()], queue, [run])
    assert [asked(state, name).position for name in ("high", "idle", "old", "low")] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("saves", "says"),
    [
        (
            {"saved_at": NOW - 60, "saves_every": 100},
            "r saves its next checkpoint and gives its place up, expected within 50 s",
        ),
        ({"ends": NOW + 40, "basis": LIMIT}, "r ends, expected within 40 s"),
        ({}, "r gives way: without a checkpoint until then, within 600 s all the same"),
    ],
)
def test_one_that_lets_another_save_first_is_told_for_what_it_waits(saves: dict[str, Any], says: str) -> None:
    run = a_run("r", [("worker-1", Room((0, 1), 0))], since=NOW - 9000, **saves)
    state = a_state([a_host(gpus=2)], [Waiting("a", Needs(2), 5, queued_at=NOW)], [run])
    found = plan(state, NOW)
    assert found.clearings == []
    state.put_off = found.put_off
    assert asked(state, "a").unblocked_by[0] == says
