"""A task's state machine, rule by rule. Every order of facts: ``test_task_orders.py``."""

from typing import Any

import pytest

from services.task import domain, repair
from tests.unit.task_facts import (
    LATER,
    NOW,
    a_running_task,
    a_task,
    a_waiting_task,
    again,
    at,
    changed,
    end,
    failed,
    saved,
)
from trainwright.contracts.attempt import Outcome
from trainwright.contracts.errors import IllegalTransition
from trainwright.contracts.failure import Failure, FailureClass
from trainwright.contracts.task import (
    StopKind,
    TaskDocument,
    TaskPhase,
    TaskReady,
    TaskRetryScheduled,
    TaskStatus,
    TaskStopRequested,
)

PENDING, RUNNING, PAUSED = TaskStatus.PENDING, TaskStatus.RUNNING, TaskStatus.PAUSED
HELD, STOPPING, WAITING = TaskPhase.HELD, TaskPhase.STOPPING, TaskPhase.WAITING_SLOTS


def a_pausing_task(**config: Any) -> TaskDocument:
    return changed(domain.pause(a_running_task(**config), NOW))


def test_a_completed_task_stays_completed() -> None:
    done = changed(domain.ended(a_running_task(), end(1, Outcome.COMPLETED), NOW))
    assert (done.status, done.phase, done.ended_at) == (TaskStatus.COMPLETED, TaskPhase.ENDED, NOW)
    assert domain.ended(done, end(1, Outcome.FAILED, FailureClass.UNKNOWN), NOW) is None
    assert domain.lost(done, at(1), NOW) is None
    for ask in (domain.start, domain.pause, domain.resume, domain.cancel):
        with pytest.raises(IllegalTransition, match=r"is completed and cannot be .*: it is over"):
            ask(done, NOW)


def test_what_its_worker_gives_back_is_held_until_somebody_resumes_it() -> None:
    idle = end(1, Outcome.PAUSED, None, 40)
    idle = idle.model_copy(update={"given_back": "its GPUs have done nothing for 30 min"})
    change = domain.ended(a_running_task(), idle, NOW)
    held = changed(change)
    assert change is not None
    assert (held.status, held.phase, held.failure, change.cause) == (PAUSED, HELD, None, "idle")
    assert held.reason.startswith("paused: its GPUs have done nothing for 30 min; resume ")
    assert changed(domain.resume(held, LATER)).status is PENDING
    asked = changed(domain.ended(a_pausing_task(), idle, NOW))
    assert asked.reason.startswith("paused; resume "), "the user's own pause says nothing of it"


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
    assert (waiting.status, waiting.losses, waiting.retries_used) == (PENDING, 1, 0)
    assert waiting.reason == "attempt 1 was lost (silent); starts from the beginning"
    assert domain.ended(waiting, end(1, Outcome.COMPLETED), NOW) is None, "a zombie's end has no say"
    assert domain.started(waiting, 1, "worker-1", NOW) is None, "nor has its start"
    assert domain.reported(waiting, saved(1, 10), NOW) is None, "nor have its checkpoints"
    assert changed(domain.placed(waiting, at(2), NOW)).attempt == 2


def test_a_placement_that_overtakes_the_loss_of_the_last_one_is_a_start_like_any_other() -> None:
    moved = changed(domain.placed(a_running_task(), at(2), NOW))
    assert (moved.status, moved.phase, moved.attempt) == (PENDING, TaskPhase.STARTING, 2)
    assert changed(domain.started(moved, 2, "worker-1", NOW)).phase is TaskPhase.TRAINING


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.FAILED])
def test_a_stopped_worker_is_a_loss_whatever_it_says_of_it(outcome: Outcome) -> None:
    known = FailureClass.PREEMPTED if outcome is Outcome.FAILED else None
    waiting = changed(domain.ended(a_running_task(), end(1, outcome, known), NOW))
    assert (waiting.phase, waiting.losses, waiting.retries_used) == (WAITING, 1, 0)


def test_cancel_while_running_goes_by_way_of_the_worker() -> None:
    change = domain.cancel(a_running_task(), NOW)
    stopping = changed(change)
    assert change is not None
    assert change.event is TaskStopRequested
    assert (stopping.status, stopping.phase, stopping.stop) == (RUNNING, STOPPING, StopKind.CANCEL)
    assert domain.cancel(stopping, NOW) is None, "asking twice changes nothing"
    cancelled = changed(domain.lost(stopping, at(1), NOW))
    assert cancelled.status is TaskStatus.CANCELLED
    assert domain.cancel(cancelled, NOW) is None, "nor does asking when it is done"
    assert changed(domain.ended(stopping, end(1, Outcome.COMPLETED), NOW)).status is TaskStatus.COMPLETED
    broken = end(1, Outcome.FAILED, FailureClass.UNKNOWN)
    assert changed(domain.ended(stopping, broken, NOW)).status is TaskStatus.CANCELLED
    for ask, verb in ((domain.pause, "paused"), (domain.resume, "resumed"), (domain.start, "started")):
        with pytest.raises(IllegalTransition, match=f"is running and cannot be {verb}: it is being cancelled"):
            ask(stopping, NOW)


def test_a_pause_while_running_goes_by_way_of_the_worker() -> None:
    change = domain.pause(a_running_task(), NOW)
    stopping = changed(change)
    assert change is not None
    assert change.event is TaskStopRequested
    assert (stopping.status, stopping.phase, stopping.stop) == (RUNNING, STOPPING, StopKind.PAUSE)
    assert domain.pause(stopping, NOW) is None, "asking twice changes nothing"
    held = changed(domain.ended(stopping, end(1, Outcome.PAUSED, None, 40), LATER))
    assert (held.status, held.phase, held.stop, held.worker_id) == (PAUSED, HELD, None, None)
    assert (held.paused_at, held.ran_seconds) == (LATER, 300.0)
    assert held.reason == "paused; resume goes on from step 40"
    assert domain.pause(held, NOW) is None
    with pytest.raises(IllegalTransition, match="is paused and cannot be started: resume it, or cancel it"):
        domain.start(held, NOW)
    change = domain.resume(held, LATER)
    waiting = changed(change)
    assert change is not None
    assert change.event is TaskReady
    assert (waiting.status, waiting.phase, waiting.resumed_at) == (PENDING, WAITING, LATER)
    assert domain.resume(waiting, NOW) is None, "asking twice changes nothing"
    assert domain.resume(again(waiting), NOW) is None, "also when it runs by then"


@pytest.mark.parametrize("phase", ["not_started", "waiting_slots", "backing_off"])
def test_a_task_without_a_run_is_paused_at_once_and_runs_when_resumed(phase: str) -> None:
    tasks = {
        "not_started": a_task(),
        "waiting_slots": a_waiting_task(),
        "backing_off": failed(a_running_task(), FailureClass.UNKNOWN),
    }
    assert tasks[phase].phase == phase
    held = changed(domain.pause(tasks[phase], NOW))
    assert (held.status, held.phase, held.not_before) == (PAUSED, HELD, None)
    assert held.reason == "paused; resume starts from the beginning"
    assert domain.queued(held, at(1, "waiting for a free place"), NOW) is None
    waiting = changed(domain.resume(held, NOW))
    assert (waiting.status, waiting.phase) == (PENDING, WAITING)
    assert changed(domain.cancel(held, NOW)).status is TaskStatus.CANCELLED


def test_what_was_never_paused_cannot_be_resumed() -> None:
    with pytest.raises(IllegalTransition, match="is pending and cannot be resumed: start it, pause it, or cancel"):
        domain.resume(a_task(), NOW)
    with pytest.raises(IllegalTransition, match="is running and cannot be resumed: pause it, or cancel it"):
        domain.resume(a_running_task(), NOW)
    with pytest.raises(IllegalTransition, match="is running and cannot be started: pause it, or cancel it"):
        domain.start(a_running_task(), NOW)


def test_a_run_that_never_asks_is_told_of_in_the_answer() -> None:
    running = changed(domain.reported(a_running_task(), saved(1, 40), NOW))
    assert changed(domain.pause(running, NOW, asks_stop=True)).reason == "asked to pause; waiting for its worker"
    warned = changed(domain.pause(running, NOW, asks_stop=False)).reason
    assert "has not asked so far whether it should stop" in warned
    assert warned.endswith("ended at the deadline; then resume goes on from step 40")
    fresh = changed(domain.pause(a_running_task(), NOW, asks_stop=False)).reason
    assert fresh.endswith("then resume starts from the beginning")


def test_a_pause_may_come_while_it_starts() -> None:
    starting = changed(domain.placed(a_waiting_task(), at(1), NOW))
    stopping = changed(domain.pause(starting, NOW))
    assert (stopping.status, stopping.phase) == (PENDING, STOPPING)
    assert changed(domain.started(stopping, 1, "worker-1", NOW)).phase is STOPPING, "its start changes no wish"
    assert changed(domain.placed(stopping, at(2), NOW)).phase is STOPPING, "nor does another place"
    assert changed(domain.ended(stopping, end(1, Outcome.PAUSED), NOW)).status is PAUSED


def test_cancel_beats_pause() -> None:
    change = domain.cancel(a_pausing_task(), NOW)
    stopping = changed(change)
    assert change is not None
    assert (change.event, stopping.stop) == (TaskStopRequested, StopKind.CANCEL)
    assert changed(domain.ended(stopping, end(1, Outcome.PAUSED), NOW)).status is TaskStatus.CANCELLED


def test_a_run_that_is_faster_than_its_pause_is_completed() -> None:
    done = changed(domain.ended(a_pausing_task(), end(1, Outcome.COMPLETED), NOW))
    assert (done.status, done.stop) == (TaskStatus.COMPLETED, None)


@pytest.mark.parametrize("kind", [FailureClass.USER_ERROR, FailureClass.DATA_ERROR])
def test_a_pause_does_not_hide_an_error_that_nothing_mends(kind: FailureClass) -> None:
    assert failed(a_pausing_task(), kind).status is TaskStatus.FAILED


def test_a_pause_keeps_what_a_repair_found() -> None:
    parameters = {"micro": 8, "steps": 1}
    roles = {"micro_batch": "micro", "accumulate": "steps"}
    held = failed(a_pausing_task(parameters=parameters, repairable=roles), FailureClass.OUT_OF_MEMORY, 30)
    assert (held.status, held.phase, held.retries_used) == (PAUSED, HELD, 1)
    assert held.overrides == {"micro": 4, "steps": 2}
    assert held.reason == "paused; attempt 1 ran out of memory; micro 8 → 4, steps 1 → 2, goes on from step 30"
    assert changed(domain.resume(held, NOW)).overrides == {"micro": 4, "steps": 2}


def test_a_worker_that_is_lost_while_its_run_is_paused_costs_nothing() -> None:
    pausing = changed(domain.reported(a_pausing_task(), saved(1, 10), NOW))
    for held in (
        changed(domain.lost(pausing, at(1, "silent for 9 s"), NOW)),
        changed(domain.ended(pausing, end(1, Outcome.INTERRUPTED), NOW)),
    ):
        assert (held.status, held.phase, held.losses, held.stop) == (PAUSED, HELD, 0, None)
        assert held.reason.endswith("resume goes on from step 10")


def test_a_pause_is_taken_back_while_it_is_under_way() -> None:
    running = changed(domain.resume(a_pausing_task(), NOW))
    assert (running.status, running.phase, running.stop) == (RUNNING, TaskPhase.TRAINING, None)
    assert domain.resume(running, NOW) is None
    change = domain.ended(running, end(1, Outcome.PAUSED, None, 40), NOW)
    waiting = changed(change)
    assert change is not None
    assert change.event is TaskRetryScheduled
    assert (waiting.status, waiting.phase, waiting.losses, waiting.retries_used) == (PENDING, WAITING, 0, 0)
    assert changed(domain.pause(running, NOW)).stop is StopKind.PAUSE, "and it may be paused anew"

    starting = changed(domain.placed(a_waiting_task(), at(1), NOW))
    starting = changed(domain.resume(changed(domain.pause(starting, NOW)), NOW))
    assert (starting.status, starting.phase) == (PENDING, TaskPhase.STARTING)


def test_a_run_that_was_on_its_way_when_its_task_was_paused_keeps_what_it_did() -> None:
    held = changed(domain.pause(a_waiting_task(), NOW))
    noted = changed(domain.placed(held, at(1), NOW))
    assert (noted.status, noted.phase, noted.stop, noted.attempt) == (PAUSED, HELD, None, 1)
    assert domain.started(noted, 1, "worker-1", NOW) is None
    noted = changed(domain.reported(noted, saved(1, 10), NOW))
    rested = changed(domain.ended(noted, end(1, Outcome.PAUSED, None, 10, 20), NOW))
    assert (rested.status, [one.step for one in rested.checkpoints]) == (PAUSED, [20, 10])
    assert domain.ended(rested, end(1, Outcome.COMPLETED), NOW) is None
    assert changed(domain.ended(noted, end(1, Outcome.COMPLETED), NOW)).status is TaskStatus.COMPLETED
    assert changed(domain.lost(noted, at(1), NOW)).status is PAUSED
    resumed = changed(domain.resume(noted, NOW))
    assert (resumed.status, resumed.phase) == (PENDING, TaskPhase.STARTING), "the run may still be stopped"
    assert changed(domain.ended(resumed, end(1, Outcome.PAUSED, None, 20), NOW)).phase is WAITING
    assert changed(domain.started(held, 1, "worker-1", NOW)).attempt == 1, "its start may be heard first"
    assert changed(domain.reported(held, saved(1, 10), NOW)).checkpoints[0].step == 10


def test_a_task_follows_the_checkpoints_of_its_newest_attempt_only() -> None:
    first = changed(domain.reported(a_running_task(), saved(1, 10, 20), NOW))
    assert [one.step for one in first.checkpoints] == [20, 10]
    assert domain.reported(first, saved(1, 10, 20), NOW) is None, "the same list is no news"
    more = domain.reported(first, saved(1, 10, 20, 30, 40), NOW)
    assert more is not None
    assert (more.cause, [one.step for one in more.task.checkpoints]) == ("", [40, 30, 20])
    second = again(changed(domain.lost(more.task, at(1), NOW)))
    assert domain.reported(second, saved(1, 50), NOW) is None, "the first one is fenced"
    second = changed(domain.reported(second, saved(2, 50, resume_step=40), NOW))
    assert [(one.attempt, one.step) for one in second.checkpoints] == [(2, 50), (1, 40), (1, 30)]


def test_checkpoints_that_could_not_be_read_do_not_crowd_out_newer_ones() -> None:
    first = changed(domain.reported(a_running_task(), saved(1, 200, 300, 400), NOW))
    second = again(changed(domain.lost(first, at(1), NOW)))
    assert domain.reported(second, saved(2, resume_step=200), NOW) is None, "until it has one of its own"
    second = changed(domain.reported(second, saved(2, 210, resume_step=200), NOW))
    assert [(one.attempt, one.step) for one in second.checkpoints] == [(2, 210), (1, 200)]


def test_a_checkpoint_tells_that_its_run_has_started() -> None:
    starting = changed(domain.placed(a_waiting_task(), at(1), NOW))
    running = changed(domain.reported(starting, saved(1, 10), NOW))
    assert (running.status, running.phase, running.version) == (RUNNING, TaskPhase.TRAINING, starting.version + 1)
    assert running.checkpoints[0].step == 10


def test_a_task_that_is_out_of_time_fails_or_rests_and_gets_the_same_time_again() -> None:
    over = failed(a_running_task(timeout="5m"), FailureClass.TIMED_OUT, 70)
    assert (over.status, over.checkpoints[0].step) == (TaskStatus.FAILED, 70)
    held = failed(a_running_task(timeout="5m", on_timeout="pause"), FailureClass.TIMED_OUT, 70)
    assert (held.status, held.ran_seconds, held.retries_used) == (PAUSED, 300.0, 0)
    assert held.reason == "paused: broke; resume goes on from step 70"
    resumed = changed(domain.resume(held, NOW))
    assert (resumed.ran_seconds, resumed.failure) == (0.0, None)


def test_time_left_is_kept_over_a_pause() -> None:
    held = changed(domain.ended(a_pausing_task(timeout="10m"), end(1, Outcome.PAUSED), NOW))
    second = again(changed(domain.resume(held, NOW)))
    assert second.ran_seconds == 300.0
    lost = changed(domain.ended(second, end(2, Outcome.INTERRUPTED), NOW))
    assert lost.ran_seconds == 600.0


def test_an_ending_without_a_reason_is_tried_again_as_unknown() -> None:
    waiting = changed(domain.ended(a_running_task(), end(1, Outcome.FAILED), NOW))
    assert waiting.failure == Failure(failure_class=FailureClass.UNKNOWN, message="no reason was given")
    assert waiting.phase is TaskPhase.BACKING_OFF
    assert waiting.not_before == NOW + repair.RULES[FailureClass.UNKNOWN].delay * (LATER - NOW) / 300
