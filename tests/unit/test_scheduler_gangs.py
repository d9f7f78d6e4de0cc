"""Attempts on several workers: what their ends mean together, who is told what, and that none blocks another."""

import math
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.scheduler.domain.gangs import Ending, breaks_up, conclusion, lost
from services.scheduler.domain.plans import Seat
from services.scheduler.domain.pool import Host, Needs, Room
from services.scheduler.domain.state import Policy
from services.scheduler.members import BREAK_UP, ended, lose, meeting_at, members_of, run_commands, seated
from services.scheduler.store import Entry
from tests.scheduling_kit import a_host
from tests.scheduling_simulation import Job, Simulation
from tests.unit.task_facts import a_task
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.command import ConcludeAttempt, RunAttempt, StopAttempt
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.queue import Placement, PlacementReleased, PlacementState, WorkerLost
from trainwright.contracts.worker import WorkerDocument

NOW = datetime(2025, 3, 3, tzinfo=UTC)
OOM, ERROR, GONE, PREEMPTED = (
    FailureClass.OUT_OF_MEMORY,
    FailureClass.USER_ERROR,
    FailureClass.WORKER_LOST,
    FailureClass.PREEMPTED,
)


def end(rank: int, outcome: Outcome, kind: FailureClass | None = None, *, peer_lost: bool = False) -> Ending:
    failure = None if kind is None else Failure(failure_class=kind, message=f"{kind} there")
    return Ending(rank=rank, worker_id=f"w{rank}", outcome=outcome, failure=failure, peer_lost=peer_lost)


DONE = Outcome.COMPLETED
TORN = end(0, Outcome.FAILED, ERROR, peer_lost=True)
OTHER_STOPPED = end(1, Outcome.INTERRUPTED, PREEMPTED)


@pytest.mark.parametrize(
    ("endings", "outcome", "kind", "named"),
    [
        pytest.param([end(0, DONE), end(1, DONE)], DONE, None, "", id="all-well"),
        pytest.param([end(1, Outcome.FAILED, ERROR), end(0, DONE)], DONE, None, "", id="rank-0-completed"),
        pytest.param([TORN, end(1, Outcome.FAILED, OOM)], Outcome.FAILED, OOM, "member 1", id="oom"),
        pytest.param([end(0, Outcome.FAILED, ERROR), OTHER_STOPPED], Outcome.FAILED, ERROR, "", id="own-error"),
        pytest.param([TORN, lost(1, "w1", "silent")], Outcome.INTERRUPTED, GONE, "member 1", id="worker-lost"),
        pytest.param(
            [TORN, end(1, Outcome.INTERRUPTED, GONE)],
            Outcome.INTERRUPTED,
            GONE,
            "member 1",
            id="worker-stops",
        ),
        pytest.param([TORN, OTHER_STOPPED], Outcome.INTERRUPTED, GONE, "lost each other", id="torn"),
        pytest.param(
            [end(0, Outcome.INTERRUPTED, PREEMPTED), OTHER_STOPPED],
            Outcome.INTERRUPTED,
            PREEMPTED,
            "",
            id="preempted",
        ),
        pytest.param([end(0, Outcome.PAUSED), OTHER_STOPPED], Outcome.PAUSED, None, "", id="paused"),
    ],
)
def test_a_gang_ends_for_the_reason_of_the_member_that_failed_by_itself(
    endings: list[Ending], outcome: Outcome, kind: FailureClass | None, named: str
) -> None:
    found, failure = conclusion(endings)
    assert found is outcome
    assert (failure.failure_class if failure else None) is kind
    assert named in (failure.message if failure else "")


def test_only_another_rank_s_good_end_leaves_the_others_at_work() -> None:
    assert not breaks_up([end(1, DONE)])
    assert breaks_up([end(0, DONE)])
    assert breaks_up([end(1, Outcome.FAILED, OOM)])
    assert breaks_up([lost(1, "w1", "silent")])


def hosts(name: str) -> Host:
    return a_host(name, gpus=2)


def a_gang() -> Entry:
    task = a_task()
    empty = Placement(task_id=task.task_id, version=0, state=PlacementState.QUEUED, updated_at=NOW)
    seat = Seat(task.task_id, (("w0", Room((0,), 1.0, 0)), ("w1", Room((1,), 1.0, 0))))
    return seated(Entry(task, empty), seat, 3, NOW, hosts=hosts)


def test_each_member_is_told_its_rank_and_where_they_meet() -> None:
    here = [
        WorkerDocument(
            worker_id=name, incarnation="i", version=1, hostname="node", cpus=1, memory=1, registered_at=NOW
        )
        for name in ("w0", "w1")
    ]
    entry = meeting_at(a_gang(), here, ())
    first = entry.placement.rendezvous
    assert first is not None
    assert (first.host, 29400 <= first.port <= 29499) == ("127.0.0.1", True)
    second = meeting_at(a_gang(), here, {("node", first.port)}).placement.rendezvous
    assert second is not None
    assert second.port != first.port
    apart = meeting_at(a_gang(), [here[0], here[1].model_copy(update={"hostname": "other"})], ())
    assert apart.placement.rendezvous is not None
    assert apart.placement.rendezvous.host == "node"
    commands = [one for one in run_commands(entry) if isinstance(one, RunAttempt)]
    assert [(one.worker_id, one.rank, one.attempt, one.slots.gpus) for one in commands] == [
        ("w0", 0, 3, [0]),
        ("w1", 1, 3, [1]),
    ]
    assert all(one.members == members_of(entry.placement) and one.rendezvous == first for one in commands)


def test_one_that_fails_has_the_others_stopped_and_the_last_one_s_end_concludes() -> None:
    entry, said = ended(a_gang(), end(1, Outcome.FAILED, OOM), NOW)
    assert [(type(one), one.subject) for one in said] == [(StopAttempt, "w0")]
    assert isinstance(said[0], StopAttempt)
    assert said[0].revision == BREAK_UP
    assert ended(entry, end(1, Outcome.FAILED, OOM), NOW) == (entry, [])
    entry, said = ended(entry, TORN, NOW)
    assert isinstance(said[0], ConcludeAttempt)
    assert said[0].failure is not None
    assert (said[0].subject, said[0].outcome, said[0].failure.failure_class) == ("w0", Outcome.FAILED, OOM)
    assert entry.placement.state is PlacementState.ASSIGNED
    entry, said = ended(entry, end(0, Outcome.FAILED).model_copy(update={"reported": True}), NOW)
    assert [type(one) for one in said] == [PlacementReleased]


def test_places_stay_taken_until_the_last_member_is_over_also_when_rank_0_is_lost() -> None:
    gang = a_gang()
    entry, said = lose(gang, members_of(gang.placement)[0], "its worker was silent", NOW)
    assert [(type(one), one.subject) for one in said] == [(StopAttempt, "w1")]
    assert entry.placement.state is PlacementState.ASSIGNED
    entry, said = ended(entry, OTHER_STOPPED, NOW)
    assert [type(one) for one in said] == [WorkerLost]
    assert (entry.placement.state, entry.lost_on) == (PlacementState.RELEASED, "w0")


CLUSTER = [a_host(f"w{number}", cpus=4, memory=8, gpus=2) for number in range(4)]


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.integers(1, 2), st.integers(1, 200), st.integers(0, 100), st.integers(0, 2)
        ),
        min_size=2,
        max_size=15,
    )
)
def test_gangs_get_all_or_nothing_and_never_block_each_other_with_halves(
    drawn: list[tuple[int, int, int, int, int]],
) -> None:
    jobs = [
        Job(f"t{n:02}", Needs(gpu, 1.0, 0, 0, members), float(work), arrives=float(arrives), priority=priority)
        for n, (members, gpu, work, arrives, priority) in enumerate(drawn)
    ]
    played = Simulation(CLUSTER, jobs, policy=Policy(overdue=math.inf)).run()
    assert all(played.told[job.name].ended is not None for job in jobs)
