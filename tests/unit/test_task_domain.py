"""A task's state machine: single rules, and what holds over any order of facts."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.task import domain
from trainwright.contracts.attempt import AttemptDocument, Failure, FailureClass, Outcome
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.queue import Placement, PlacementState
from trainwright.contracts.task import (
    FINAL,
    StopKind,
    TaskConfig,
    TaskDocument,
    TaskPhase,
    TaskRetryScheduled,
    TaskStatus,
    TaskStopRequested,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def a_task(**config: object) -> TaskDocument:
    return domain.created("task-1", TaskConfig.model_validate({"recipe": "script", **config}), NOW).task


def a_waiting_task(**config: object) -> TaskDocument:
    return changed(domain.start(a_task(**config), NOW))


def a_running_task(attempt: int = 1, **config: object) -> TaskDocument:
    waiting = a_waiting_task(**config)
    return changed(domain.started(changed(domain.placed(waiting, at(attempt), NOW)), attempt, "worker-1", NOW))


def changed(change: domain.Change | None) -> TaskDocument:
    assert change is not None
    return change.task


def at(attempt: int, reason: str = "") -> Placement:
    return Placement(
        task_id="task-1",
        version=attempt,
        state=PlacementState.ASSIGNED,
        attempt=attempt,
        worker_id="worker-1",
        incarnation="one",
        reason=reason,
        updated_at=NOW,
    )


def end(attempt: int, outcome: Outcome, failure_class: FailureClass | None = None) -> AttemptDocument:
    failure = Failure(failure_class=failure_class, message="broke") if failure_class else None
    return AttemptDocument(
        task_id="task-1",
        attempt=attempt,
        version=2,
        worker_id="worker-1",
        incarnation="one",
        outcome=outcome,
        failure=failure,
    )


def test_a_completed_task_stays_completed() -> None:
    done = changed(domain.ended(a_running_task(), end(1, Outcome.COMPLETED), NOW))
    assert (done.status, done.phase, done.ended_at) == (TaskStatus.COMPLETED, TaskPhase.ENDED, NOW)
    assert domain.ended(done, end(1, Outcome.FAILED, FailureClass.UNKNOWN), NOW) is None
    assert domain.lost(done, at(1), NOW) is None
    with pytest.raises(IllegalTransition, match="completed"):
        domain.cancel(done, NOW)


def test_the_end_may_be_heard_before_the_placement_and_the_start() -> None:
    done = changed(domain.ended(a_waiting_task(), end(1, Outcome.COMPLETED), NOW))
    assert (done.status, done.attempt) == (TaskStatus.COMPLETED, 1)
    assert domain.placed(done, at(1), NOW) is None
    assert domain.started(done, 1, "worker-1", NOW) is None


def test_a_lost_attempt_is_fenced_and_costs_no_retry() -> None:
    change = domain.lost(a_running_task(), at(1, "silent"), NOW)
    waiting = changed(change)
    assert change is not None
    assert change.event is TaskRetryScheduled
    assert (waiting.status, waiting.losses, waiting.retries_used) == (TaskStatus.PENDING, 1, 0)
    assert domain.ended(waiting, end(1, Outcome.COMPLETED), NOW) is None, "a zombie's end has no say"
    assert domain.started(waiting, 1, "worker-1", NOW) is None, "nor has its start"
    assert changed(domain.placed(waiting, at(2), NOW)).attempt == 2


def test_losses_have_a_cap_of_their_own() -> None:
    task = a_running_task().model_copy(update={"losses": domain.LOSS_CAP})
    failed = changed(domain.lost(task, at(1), NOW))
    assert failed.status is TaskStatus.FAILED
    assert failed.failure is not None
    assert failed.failure.failure_class is FailureClass.WORKER_LOST


def test_a_retry_is_charged_waits_and_runs_out() -> None:
    task = a_running_task(max_retries=1)
    waiting = changed(domain.ended(task, end(1, Outcome.FAILED, FailureClass.OUT_OF_MEMORY), NOW))
    assert (waiting.phase, waiting.retries_used) == (TaskPhase.BACKING_OFF, 1)
    assert waiting.not_before == NOW + timedelta(seconds=10)
    again = changed(domain.placed(waiting, at(2), NOW))
    failed = changed(domain.ended(again, end(2, Outcome.FAILED, FailureClass.OUT_OF_MEMORY), NOW))
    assert failed.status is TaskStatus.FAILED


def test_a_users_own_error_is_not_tried_again() -> None:
    task = a_running_task(max_retries=3)
    failed = changed(domain.ended(task, end(1, Outcome.FAILED, FailureClass.USER_ERROR), NOW))
    assert failed.status is TaskStatus.FAILED


def test_cancel_while_running_goes_by_way_of_the_worker() -> None:
    change = domain.cancel(a_running_task(), NOW)
    stopping = changed(change)
    assert change is not None
    assert change.event is TaskStopRequested
    assert (stopping.status, stopping.phase, stopping.stop) == (
        TaskStatus.RUNNING,
        TaskPhase.STOPPING,
        StopKind.CANCEL,
    )
    assert domain.cancel(stopping, NOW) is None, "asking twice changes nothing"
    assert changed(domain.lost(stopping, at(1), NOW)).status is TaskStatus.CANCELLED
    assert changed(domain.ended(stopping, end(1, Outcome.COMPLETED), NOW)).status is TaskStatus.COMPLETED
    failed = end(1, Outcome.FAILED, FailureClass.UNKNOWN)
    assert changed(domain.ended(stopping, failed, NOW)).status is TaskStatus.CANCELLED


FACTS = st.one_of(
    st.tuples(st.just("start")),
    st.tuples(st.just("cancel")),
    st.tuples(st.just("placed"), st.integers(1, 4)),
    st.tuples(st.just("started"), st.integers(1, 4)),
    st.tuples(st.just("lost"), st.integers(1, 4)),
    st.tuples(st.just("ended"), st.integers(1, 4), st.sampled_from(Outcome), st.sampled_from(FailureClass)),
)


def apply_fact(task: TaskDocument, fact: tuple[object, ...]) -> domain.Change | None:
    match fact:
        case ("start",):
            return domain.start(task, NOW)
        case ("cancel",):
            return domain.cancel(task, NOW)
        case ("placed", int(attempt)):
            return domain.placed(task, at(attempt), NOW)
        case ("started", int(attempt)):
            return domain.started(task, attempt, "worker-1", NOW)
        case ("lost", int(attempt)):
            return domain.lost(task, at(attempt), NOW)
        case ("ended", int(attempt), Outcome() as outcome, FailureClass() as failure_class):
            return domain.ended(task, end(attempt, outcome, failure_class), NOW)
    raise AssertionError(fact)


@given(st.lists(FACTS, max_size=30))
def test_over_any_order_of_facts(facts: list[tuple[object, ...]]) -> None:
    """Attempts and versions only grow, no status is left for an illegal one, and nothing follows the end."""
    task = a_task(max_retries=1)
    for fact in facts:
        try:
            change = apply_fact(task, fact)
        except IllegalTransition:
            assert fact[0] in ("start", "cancel"), "only a request can be illegal, never a fact"
            continue
        if change is None:
            continue
        after = change.task
        assert task.status not in FINAL
        assert after.version == task.version + 1
        assert after.attempt >= task.attempt
        assert after.status in domain.TRANSITIONS[task.status]
        assert (after.phase is TaskPhase.ENDED) == (after.status in FINAL)
        if after.status is TaskStatus.RUNNING:
            assert after.phase in domain.LIVE
        task = after
